#include "request.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "env.h"
#include "frame.h"
#include "io.h"

/// Header, environment and stdin, and one byte more to see that stdin goes on.
static _Alignas(8) uint8_t buffer[sizeof(struct RequestHeader) + FRAME_MAX_ENVIRONMENT + FRAME_MAX_STDIN + 1];

static struct RequestHeader* header(void) { return (struct RequestHeader*)(void*)buffer; }

static bool append(const char* bytes, size_t length) {
  if (length > FRAME_MAX_ENVIRONMENT - header()->environment_bytes) return false;
  memcpy(buffer + sizeof(struct RequestHeader) + header()->environment_bytes, bytes, length);
  header()->environment_bytes += (uint32_t)length;
  return true;
}

static bool append_variable(const char* name, const char* value) {
  return append(name, strlen(name)) && append("=", 1) && append(value, strlen(value) + 1);
}

static void make_request_id(uint8_t id[16]) {
  if (getrandom(id, 16, GRND_NONBLOCK) == 16) return;
  // Early in the boot of a machine there is no entropy yet; the id only has to differ from others in the log.
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  uint64_t parts[2] = {(uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec, (uint64_t)getpid()};
  memcpy(id, parts, sizeof parts);
}

bool request_begin(struct Request* request, const struct Verb* verb, struct CniError* error) {
  *header() = (struct RequestHeader){
      .magic = FRAME_REQUEST_MAGIC,
      .protocol = FRAME_PROTOCOL,
      .verb = (uint16_t)verb->number,
      .executable_version = VU_VERSION_MAJOR << 16 | VU_VERSION_MINOR << 8 | VU_VERSION_PATCH,
  };
  make_request_id(header()->request_id);
  if (!env_forward(verb, append_variable, error)) return false;
  *request = (struct Request){
      .verb = verb,
      .frame = buffer,
      .length = sizeof(struct RequestHeader) + header()->environment_bytes,
      .netns = -1,
  };
  return true;
}

bool request_read_stdin(struct Request* request, struct JsonScan* scan, int64_t deadline_ms, struct CniError* error) {
  uint8_t* input = buffer + request->length;
  size_t length = 0;
  for (;;) {
    if (!wait_for(STDIN_FILENO, POLLIN, deadline_ms)) {
      error->code = CNI_IO_FAILURE;
      text_set(&error->message, "reading the network configuration from stdin: no end of file before the time for ",
               request->verb->name, " was over");
      return false;
    }
    ssize_t got = read(STDIN_FILENO, input + length, FRAME_MAX_STDIN + 1 - length);
    if (got == 0) break;
    if (got < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      error->code = CNI_IO_FAILURE;
      text_set(&error->message, "reading the network configuration from stdin: ", strerror(errno));
      return false;
    }
    json_scan_feed(scan, input + length, (size_t)got);
    length += (size_t)got;
    if (length > FRAME_MAX_STDIN) {
      error->code = CNI_DECODE_FAILURE;
      text_set(&error->message, "network configuration on stdin is larger than 4 MiB");
      return false;
    }
  }
  header()->stdin_bytes = (uint32_t)length;
  request->length += length;
  return true;
}

bool request_open_netns(struct Request* request, struct CniError* error) {
  enum VerbNumber verb = request->verb->number;
  const char* path = env_or("CNI_NETNS", NULL);
  if (path == NULL || verb == VERB_GC || verb == VERB_STATUS) return true;
  // Not blocking: the path may be a FIFO. That it is a network namespace is the agent's to check.
  request->netns = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (request->netns >= 0 || verb == VERB_DEL) return true;
  error->code = CNI_BAD_NETNS;
  text_set(&error->message, "opening the network namespace ", path, ": ", strerror(errno));
  return false;
}

void request_for_agent(struct Request* request, int64_t time_left_ms) {
  header()->time_left_ms = time_left_ms < 1 ? 1 : (uint32_t)time_left_ms;
  header()->descriptors = request->netns >= 0 ? 1 : 0;
  header()->roles[0] = request->netns >= 0 ? FRAME_ROLE_NETNS : 0;
}

void request_for_queue(struct Request* request) {
  header()->time_left_ms = request->verb->call_ms - request->verb->margin_ms;
  header()->descriptors = 0;
  header()->roles[0] = 0;
}

void scan_stdin(struct JsonScan* scan, int64_t deadline_ms) {
  if (isatty(STDIN_FILENO) != 0) return;
  for (size_t total = 0; total < FRAME_MAX_STDIN && !json_scan_done(scan);) {
    if (!wait_for(STDIN_FILENO, POLLIN, deadline_ms)) return;
    ssize_t got = read(STDIN_FILENO, buffer, 4096);
    if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) return;
    if (got < 0) continue;
    json_scan_feed(scan, buffer, (size_t)got);
    total += (size_t)got;
  }
}
