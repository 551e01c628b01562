/// Finds the value of the top-level key "cniVersion" in a JSON text that comes in pieces; no more. It does not
/// validate: the agent does. Constant memory, no recursion, any bytes are safe.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  JSON_SCAN_MAX_VERSION = 32,  ///< Bytes of a version; a longer one counts as absent.
  JSON_SCAN_MAX_DEPTH = 128,   ///< Deeper nesting ends the scan.
};

struct JsonScan {
  enum { JSON_BEFORE, JSON_KEY, JSON_AFTER_KEY, JSON_VALUE, JSON_AFTER_VALUE, JSON_DONE } place;
  enum { JSON_OUTSIDE, JSON_STRING, JSON_ESCAPE, JSON_UNICODE } lexeme;
  unsigned depth;
  unsigned unicode;
  unsigned unicode_digits;
  bool of_version;  ///< The key seen last is "cniVersion".
  bool acceptable;  ///< `token` is all of the current string.
  bool found;
  size_t token_length;
  char token[JSON_SCAN_MAX_VERSION + 1];
  char version[JSON_SCAN_MAX_VERSION + 1];
};

/// A scan starts as all zeros.
void json_scan_feed(struct JsonScan* scan, const uint8_t* bytes, size_t length);

/// No further input can change the answer.
bool json_scan_done(const struct JsonScan* scan);

/// The version: 1 to 32 of [0-9A-Za-z.+-], so it may stand in JSON and logs as it is. NULL if absent or anything else.
/// As in every JSON library the last of several wins. Lives as long as the scan.
const char* json_scan_version(const struct JsonScan* scan);
