// virtio-user, the CNI executable. Hands the call of a container runtime (environment, stdin, the pod's network
// namespace) to the agent of the node, prints what the agent answers, and exits as the agent says. It decides nothing
// itself but what to do when the agent is away. It allocates nothing and reads no files.

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent_client.h"
#include "cni_error.h"
#include "delete_queue.h"
#include "env.h"
#include "io.h"
#include "json_scan.h"
#include "request.h"
#include "verb.h"
#include "version.h"

enum {
  VERSION_STDIN_MS = 1000,  ///< How long answers that need no configuration wait for the caller's version.
  QUEUE_LOCK_MS = 3000,
  QUEUE_ATTEMPT_MS = 2000,  ///< The last attempt before queueing.
  QUEUE_ATTEMPT_MARGIN_MS = 200,
  CONFIRM_MS = 100,
};

/// One call: what came in, and what is known so far.
struct Call {
  const struct Verb* verb;
  int64_t started_ms;
  int64_t deadline_ms;
  const char* socket_path;
  struct JsonScan scan;
  struct Request request;
  struct AgentAnswer answer;
  struct CniError error;
};

/// An ADD that the agent has undone, or may have, must not look like a success: the runtime follows a failure with DEL.
static int taken_back(struct Call* call) {
  call->error.code = CNI_TRY_AGAIN_LATER;
  text_set(&call->error.message, "the agent did not hear in time that its answer arrived, and took the ADD back");
  return EXIT_FAILURE;
}

/// Prints the agent's answer, then confirms. The exit status is the agent's; failures stay failures beyond 8 bits.
static int relay(struct Call* call) {
  const struct AgentAnswer* answer = &call->answer;
  bool added = call->verb->number == VERB_ADD && answer->exit_code == 0;
  if (added && !agent_waits(answer)) return taken_back(call);
  // Unread stdout means that the caller is gone: without the confirmation the agent rolls back.
  if (!write_all(STDOUT_FILENO, answer->body, answer->body_length, call->deadline_ms)) return EXIT_FAILURE;
  int64_t confirm_by_ms = now_ms() + CONFIRM_MS;
  bool confirmed = agent_confirm(answer, confirm_by_ms);
  if (added) {
    // Sent is not heard: only the agent knows which came first, the word or the end of its patience.
    int64_t keep_by_ms = call->deadline_ms > confirm_by_ms ? call->deadline_ms : confirm_by_ms;
    if (!confirmed || !agent_keeps(answer, keep_by_ms)) return taken_back(call);
  }
  return answer->exit_code > UINT8_MAX ? EXIT_FAILURE : answer->exit_code;
}

/// Turns an outcome without answer into the error that the verb has for it.
static int give_up(struct Call* call, enum AgentOutcome outcome) {
  call->error.code = outcome == AGENT_SKEWED ? CNI_PROTOCOL_SKEW : call->verb->error_code;
  if (outcome == AGENT_SKEWED) {
    text_set(&call->error.details, "install the executable and the agent of the same release on this node");
  } else if (outcome == AGENT_AWAY) {
    text_set(&call->error.details, "tried for ");
    text_add_number(&call->error.details, call->verb->retry_ms);
    text_add(&call->error.details, " ms, is the virtio-user-cni agent running on this node?");
  } else if (outcome == AGENT_LATE) {
    text_set(&call->error.details, call->verb->name, " has ");
    text_add_number(&call->error.details, call->verb->call_ms);
    text_add(&call->error.details, " ms in all");
  }
  return EXIT_FAILURE;
}

/// A DEL that the agent did not answer: once more under the queue's lock, then into the queue, which is success.
static int queue_delete(struct Call* call) {
  if (!delete_queue_lock(env_or("VIRTIO_USER_STATE_DIR", STATE_DIR), now_ms() + QUEUE_LOCK_MS, &call->error)) {
    return EXIT_FAILURE;
  }
  int64_t deadline_ms = now_ms() + QUEUE_ATTEMPT_MS;
  enum AgentOutcome outcome = agent_call(call->socket_path, &call->request, now_ms(), deadline_ms,
                                         QUEUE_ATTEMPT_MARGIN_MS, &call->answer, &call->error.message);
  if (outcome == AGENT_ANSWERED) {
    if (call->deadline_ms < deadline_ms) call->deadline_ms = deadline_ms;
    return relay(call);
  }
  if (outcome == AGENT_SKEWED) return give_up(call, outcome);
  return delete_queue_write(&call->request, &call->error) ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int call_agent(struct Call* call) {
  const struct Verb* verb = call->verb;
  if (!request_begin(&call->request, verb, &call->error) ||
      !request_read_stdin(&call->request, &call->scan, call->deadline_ms, &call->error) ||
      !request_open_netns(&call->request, &call->error)) {
    return EXIT_FAILURE;
  }
  enum AgentOutcome outcome = agent_call(call->socket_path, &call->request, call->started_ms + verb->retry_ms,
                                         call->deadline_ms, verb->margin_ms, &call->answer, &call->error.message);
  if (outcome == AGENT_ANSWERED) return relay(call);
  if (verb->number == VERB_DEL && outcome != AGENT_SKEWED) return queue_delete(call);
  return give_up(call, outcome);
}

/// Runs the call. On failure either `call->error` is set or the answer could not be written.
static int run(const char* command, struct Call* call) {
  call->started_ms = now_ms();
  if (strcmp(command, "VERSION") == 0) {
    scan_stdin(&call->scan, call->started_ms + VERSION_STDIN_MS);
    return version_print(json_scan_version(&call->scan)) ? EXIT_SUCCESS : EXIT_FAILURE;
  }
  call->verb = verb_by_name(command);
  if (call->verb == NULL) {
    call->error.code = CNI_BAD_ENVIRONMENT;
    text_set(&call->error.message, "CNI_COMMAND '");
    text_add_cut(&call->error.message, command, 64);
    text_add(&call->error.message, "' is none of ADD, DEL, CHECK, GC, STATUS, VERSION");
  }
  if (call->verb == NULL || !env_validate(call->verb, &call->error)) {
    scan_stdin(&call->scan, call->started_ms + VERSION_STDIN_MS);
    return EXIT_FAILURE;
  }
  call->deadline_ms = call->started_ms + call->verb->call_ms;
  call->socket_path = env_or("VIRTIO_USER_AGENT_SOCKET", AGENT_SOCKET);
  return call_agent(call);
}

int main(void) {
  static struct Call call;
  signal(SIGPIPE, SIG_IGN);
  const char* command = getenv("CNI_COMMAND");
  if (!take_standard_descriptors()) return EXIT_FAILURE;
  if (command == NULL) {
    version_about();
    return EXIT_SUCCESS;
  }
  int status = run(command, &call);
  if (call.error.code != 0) cni_error_print(&call.error, json_scan_version(&call.scan));
  return status;
}
