// Fuzz target of the version scanner: what it reports is always safe to print, does not depend on how the input was
// cut, and is not misled by anything inside a string or a nested value.
#include <stdlib.h>
#include <string.h>

#include "json_scan.h"

static void require(bool condition) {
  if (!condition) abort();
}

static const char* scan_all(struct JsonScan* scan, const uint8_t* bytes, size_t length) {
  json_scan_feed(scan, bytes, length);
  return json_scan_version(scan);
}

static void is_safe_to_print(const char* version) {
  static const char accepted[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.+-";
  size_t length = strlen(version);
  require(length >= 1 && length <= JSON_SCAN_MAX_VERSION && strspn(version, accepted) == length);
}

/// Feeds in two pieces, and byte by byte.
static void same_in_pieces(const uint8_t* bytes, size_t length, const char* version) {
  struct JsonScan halves = {0};
  size_t cut = length == 0 ? 0 : bytes[0] % (length + 1);
  json_scan_feed(&halves, bytes, cut);
  const char* from_halves = scan_all(&halves, bytes + cut, length - cut);
  struct JsonScan single = {0};
  for (size_t i = 0; i < length; i++) json_scan_feed(&single, bytes + i, 1);
  const char* from_single = json_scan_version(&single);
  require((version == NULL) == (from_halves == NULL) && (version == NULL) == (from_single == NULL));
  if (version != NULL) require(strcmp(version, from_halves) == 0 && strcmp(version, from_single) == 0);
}

/// The input as a JSON string, at the top and in a nested object, beside a real version.
static void not_misled_by_strings(const uint8_t* bytes, size_t length) {
  static const char* const templates[][2] = {
      {"{\"x\":\"", "\",\"cniVersion\":\"1.0.0\"}"},
      {"{\"cniVersion\":\"1.0.0\",\"x\":{\"cniVersion\":\"", "\"}}"},
      {"{\"cniVersion\":\"1.0.0\",\"x\":[{},\"", "\"]}"},
  };
  static const char hex[] = "0123456789abcdef";
  for (size_t t = 0; t < sizeof templates / sizeof *templates; t++) {
    struct JsonScan scan = {0};
    json_scan_feed(&scan, (const uint8_t*)templates[t][0], strlen(templates[t][0]));
    for (size_t i = 0; i < length; i++) {
      uint8_t escaped[6] = {'\\', 'u', '0', '0', (uint8_t)hex[bytes[i] >> 4], (uint8_t)hex[bytes[i] & 15]};
      bool plain = bytes[i] != '"' && bytes[i] != '\\';
      uint8_t two[2] = {'\\', bytes[i]};
      if (plain) {
        json_scan_feed(&scan, bytes + i, 1);
      } else if (i % 2 == 0) {
        json_scan_feed(&scan, two, 2);
      } else {
        json_scan_feed(&scan, escaped, 6);
      }
    }
    const char* version = scan_all(&scan, (const uint8_t*)templates[t][1], strlen(templates[t][1]));
    require(version != NULL && strcmp(version, "1.0.0") == 0 && json_scan_done(&scan));
  }
}

int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t length) {
  struct JsonScan scan = {0};
  const char* version = scan_all(&scan, bytes, length);
  if (version != NULL) is_safe_to_print(version);
  same_in_pieces(bytes, length, version);
  not_misled_by_strings(bytes, length);
  return 0;
}
