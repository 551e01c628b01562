/// One request to the agent and its answer, over its Unix socket.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "request.h"
#include "text.h"

#define AGENT_SOCKET "/run/virtio-user/agent.sock"

enum AgentOutcome {
  AGENT_ANSWERED,
  AGENT_AWAY,       ///< Nobody listens, or the connection closed before any answer.
  AGENT_LATE,       ///< The deadline came first.
  AGENT_BROKEN,     ///< It answered with something that is no answer.
  AGENT_UNTRUSTED,  ///< The socket is not root's.
  AGENT_SKEWED,     ///< It speaks another protocol.
};

struct AgentAnswer {
  uint16_t exit_code;
  const uint8_t* body;  ///< Static memory.
  size_t body_length;
  int socket;            ///< For agent_confirm; closes with the process.
  bool expects_confirm;  ///< It has read the request to its end.
};

/// Sends the request and reads the whole answer. Keeps trying an agent that is away until `retry_until_ms`. On any
/// outcome but AGENT_ANSWERED `why` says what was tried and what happened. The agent is told to give up `margin_ms`
/// before the deadline.
enum AgentOutcome agent_call(const char* socket_path, struct Request* request, int64_t retry_until_ms,
                             int64_t deadline_ms, int64_t margin_ms, struct AgentAnswer* answer, struct Text* why);

/// The agent has neither hung up nor said anything since its answer, so it still waits for the confirmation.
bool agent_waits(const struct AgentAnswer* answer);

/// Tells the agent that the caller has the answer. Without this it takes the caller for dead and rolls an ADD back.
/// False: the agent was not told.
bool agent_confirm(const struct AgentAnswer* answer, int64_t deadline_ms);

/// After agent_confirm: the agent has hung up without withdrawing its answer first.
bool agent_keeps(const struct AgentAnswer* answer, int64_t deadline_ms);
