/// The one request of this process, built in place as the frame that is sent or queued. Its memory is static and costs
/// only the pages that are filled.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cni_error.h"
#include "json_scan.h"
#include "verb.h"

struct Request {
  const struct Verb* verb;
  uint8_t* frame;
  size_t length;
  int netns;  ///< The pod's namespace, owned by the process until it ends; -1: none.
};

/// Fills header and environment section. False with `error`.
bool request_begin(struct Request* request, const struct Verb* verb, struct CniError* error);

/// Appends stdin to its end, feeding `scan` on the way. False with `error` (5 or 6).
bool request_read_stdin(struct Request* request, struct JsonScan* scan, int64_t deadline_ms, struct CniError* error);

/// Opens CNI_NETNS where the verb has one. False with `error` (8); a DEL never fails here, its namespace may be gone.
bool request_open_netns(struct Request* request, struct CniError* error);

/// Makes the frame the one for the agent, with the time it has.
void request_for_agent(struct Request* request, int64_t time_left_ms);

/// Makes the frame the one for the delete queue: no descriptors, all the time that the verb has.
void request_for_queue(struct Request* request);

/// Reads stdin only as far as the version, for answers that need no more; never from a terminal, and at most until the
/// deadline. Failures leave the version unknown.
void scan_stdin(struct JsonScan* scan, int64_t deadline_ms);
