/// The frame between the executable and the agent (docs/architecture.md, "The frame between executable and agent").
/// All integers are little-endian, as are all machines this is built for.
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the frame is written as it lies in memory");

enum {
  FRAME_PROTOCOL = 1,
  FRAME_MAX_DESCRIPTORS = 3,
  FRAME_ROLE_NETNS = 1,
  FRAME_MAX_ENVIRONMENT = 65536,
  FRAME_MAX_STDIN = 4 << 20,
  FRAME_MAX_BODY = 1 << 20,
};

#define FRAME_REQUEST_MAGIC UINT32_C(0x31515556)  // "VUQ1"
#define FRAME_ANSWER_MAGIC UINT32_C(0x31415556)   // "VUA1"
#define FRAME_CONFIRM_MAGIC UINT32_C(0x314b5556)  // "VUK1"

/// Starts a request; the environment section and stdin follow.
struct RequestHeader {
  uint32_t magic;
  uint16_t protocol;
  uint16_t verb;
  uint32_t time_left_ms;  ///< Counted from the send.
  uint8_t descriptors;
  uint8_t roles[FRAME_MAX_DESCRIPTORS];
  uint8_t request_id[16];
  uint32_t environment_bytes;
  uint32_t stdin_bytes;
  uint32_t executable_version;  ///< major << 16 | minor << 8 | patch
  uint32_t reserved;
};
static_assert(sizeof(struct RequestHeader) == 48, "request header");
static_assert(offsetof(struct RequestHeader, time_left_ms) == 8, "request header");
static_assert(offsetof(struct RequestHeader, descriptors) == 12, "request header");
static_assert(offsetof(struct RequestHeader, roles) == 13, "request header");
static_assert(offsetof(struct RequestHeader, request_id) == 16, "request header");
static_assert(offsetof(struct RequestHeader, environment_bytes) == 32, "request header");
static_assert(offsetof(struct RequestHeader, executable_version) == 40, "request header");

/// Starts an answer; the body, which goes to stdout unchanged, follows.
struct AnswerHeader {
  uint32_t magic;
  uint16_t protocol;
  uint16_t exit_code;
  uint32_t body_bytes;
  uint32_t reserved;
};
static_assert(sizeof(struct AnswerHeader) == 16, "answer header");
