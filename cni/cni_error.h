/// CNI errors of the executable itself: JSON on stdout, as the CNI specification 1.1.0 ("Error") has it.
#pragma once

#include <stdbool.h>

#include "text.h"

/// Codes of the specification below 100, ours from there on.
enum CniCode {
  CNI_BAD_ENVIRONMENT = 4,
  CNI_IO_FAILURE = 5,
  CNI_DECODE_FAILURE = 6,
  CNI_BAD_NETNS = 8,
  CNI_TRY_AGAIN_LATER = 11,
  CNI_NOT_AVAILABLE = 50,
  CNI_PROTOCOL_SKEW = 107,
};

/// What to use where the caller did not say which version it speaks.
#define CNI_DEFAULT_VERSION "1.0.0"

/// One failure of the call: `code` 0 means none. `message` says what was tried, on what, and what happened.
struct CniError {
  unsigned code;
  struct Text message;
  struct Text details;
};

/// Prints the error on stdout. `version` is JSON-safe (json_scan.h) or NULL. Whether it could be written does not
/// matter any more: the exit status says that it failed.
void cni_error_print(const struct CniError* error, const char* version);
