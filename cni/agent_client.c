#include "agent_client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "frame.h"
#include "io.h"

enum { RETRY_EVERY_MS = 100 };

static uint8_t answer_buffer[sizeof(struct AnswerHeader) + FRAME_MAX_BODY];

/// A connected socket whose other end is root's, or -1 with `outcome` and `why`.
static int connect_to(const char* path, enum AgentOutcome* outcome, struct Text* why) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, path, strlen(path) + 1);  // env.c has checked the length
  *outcome = AGENT_AWAY;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) {
    text_set(why, "making a socket: ", strerror(errno));
    return -1;
  }
  // EAGAIN means a full backlog: the agent is alive but busy. Connecting a local socket never needs waiting otherwise.
  if (connect(fd, (const struct sockaddr*)&address, sizeof address) != 0) {
    text_set(why, "connecting to the agent at ", path, ": ", strerror(errno));
    close(fd);
    return -1;
  }
  struct ucred peer = {.uid = (uid_t)-1};
  socklen_t length = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.uid != 0) {
    *outcome = AGENT_UNTRUSTED;
    text_set(why, "the socket ", path, " belongs to uid ");
    text_add_number(why, peer.uid);
    text_add(why, " instead of root, nothing was sent");
    close(fd);
    return -1;
  }
  return fd;
}

/// Sends what the socket takes of the frame from `offset` on, with the namespace beside its first byte. -1 with errno.
static ssize_t send_some(int fd, const struct Request* request, size_t offset) {
  struct iovec part = {.iov_base = request->frame + offset, .iov_len = request->length - offset};
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (offset == 0 && request->netns >= 0) {
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    struct cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &request->netns, sizeof(int));
  }
  return sendmsg(fd, &message, MSG_NOSIGNAL);
}

/// Sends the request. It may end early because the agent answers already or has closed, which reading then shows.
static bool send_request(int fd, const struct Request* request, int64_t deadline_ms, bool* complete) {
  size_t sent = 0;
  while (sent < request->length) {
    if (!wait_for(fd, POLLIN | POLLOUT, deadline_ms)) return false;
    uint8_t byte;
    if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0) break;
    ssize_t count = send_some(fd, request, sent);
    if (count >= 0) {
      sent += (size_t)count;
    } else if (errno != EINTR && errno != EAGAIN) {
      break;
    }
  }
  *complete = sent == request->length;
  return true;
}

/// What is wrong with the header, or AGENT_ANSWERED.
static enum AgentOutcome check_header(const struct AnswerHeader* header, struct Text* why) {
  if (header->magic != FRAME_ANSWER_MAGIC) {
    text_set(why, "the agent's answer does not start as an answer");
    return AGENT_BROKEN;
  }
  if (header->protocol != FRAME_PROTOCOL) {
    text_set(why, "the agent speaks protocol ");
    text_add_number(why, header->protocol);
    text_add(why, " of the executable's socket, this executable speaks ");
    text_add_number(why, FRAME_PROTOCOL);
    return AGENT_SKEWED;
  }
  if (header->body_bytes > FRAME_MAX_BODY) {
    text_set(why, "the agent announced an answer of ");
    text_add_number(why, header->body_bytes);
    text_add(why, " bytes, the most is 1048576");
    return AGENT_BROKEN;
  }
  return AGENT_ANSWERED;
}

static enum AgentOutcome read_answer(int fd, int64_t deadline_ms, struct AgentAnswer* answer, struct Text* why) {
  struct AnswerHeader header;
  size_t wanted = sizeof header;
  size_t have = 0;
  while (have < wanted) {
    if (!wait_for(fd, POLLIN, deadline_ms)) {
      text_set(why, have == 0 ? "the agent did not answer in time" : "the agent did not finish its answer in time");
      return AGENT_LATE;
    }
    ssize_t got = recv(fd, answer_buffer + have, wanted - have, 0);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0 && have == 0) {
      text_set(why, "the agent closed the connection without an answer");
      return AGENT_AWAY;
    }
    if (got <= 0) {
      text_set(why, "the agent's answer ended after ");
      text_add_number(why, have);
      text_add(why, " of at least ");
      text_add_number(why, wanted);
      text_add(why, " bytes");
      return AGENT_BROKEN;
    }
    have += (size_t)got;
    if (have != sizeof header || wanted != sizeof header) continue;
    memcpy(&header, answer_buffer, sizeof header);
    enum AgentOutcome outcome = check_header(&header, why);
    if (outcome != AGENT_ANSWERED) return outcome;
    wanted += header.body_bytes;
  }
  answer->exit_code = header.exit_code;
  answer->body = answer_buffer + sizeof header;
  answer->body_length = header.body_bytes;
  return AGENT_ANSWERED;
}

static enum AgentOutcome try_once(const char* socket_path, struct Request* request, int64_t deadline_ms,
                                  int64_t margin_ms, struct AgentAnswer* answer, struct Text* why) {
  enum AgentOutcome outcome;
  int fd = connect_to(socket_path, &outcome, why);
  if (fd < 0) return outcome;
  request_for_agent(request, deadline_ms - margin_ms - now_ms());
  if (send_request(fd, request, deadline_ms, &answer->expects_confirm)) {
    outcome = read_answer(fd, deadline_ms, answer, why);
  } else {
    text_set(why, "the agent did not read the request in time");
    outcome = AGENT_LATE;
  }
  if (outcome == AGENT_ANSWERED) {
    answer->socket = fd;
  } else {
    close(fd);
  }
  return outcome;
}

enum AgentOutcome agent_call(const char* socket_path, struct Request* request, int64_t retry_until_ms,
                             int64_t deadline_ms, int64_t margin_ms, struct AgentAnswer* answer, struct Text* why) {
  for (;;) {
    enum AgentOutcome outcome = try_once(socket_path, request, deadline_ms, margin_ms, answer, why);
    if (outcome != AGENT_AWAY || now_ms() >= retry_until_ms) return outcome;
    sleep_for(RETRY_EVERY_MS, retry_until_ms);
  }
}

bool agent_waits(const struct AgentAnswer* answer) {
  uint8_t byte;
  return recv(answer->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

bool agent_confirm(const struct AgentAnswer* answer, int64_t deadline_ms) {
  if (!answer->expects_confirm) return false;
  // It has read the request, so four bytes fit; if not, the connection is gone and nobody waits for them.
  const uint32_t word = FRAME_CONFIRM_MAGIC;
  while (wait_for(answer->socket, POLLOUT, deadline_ms)) {
    if (send(answer->socket, &word, sizeof word, MSG_NOSIGNAL) >= 0) return true;
    if (errno != EINTR && errno != EAGAIN) return false;
  }
  return false;
}

bool agent_keeps(const struct AgentAnswer* answer, int64_t deadline_ms) {
  while (wait_for(answer->socket, POLLIN, deadline_ms)) {
    uint8_t byte;
    ssize_t got = recv(answer->socket, &byte, 1, 0);
    if (got >= 0) return got == 0;
    if (errno != EINTR && errno != EAGAIN) return false;
  }
  return false;
}
