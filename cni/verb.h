/// The CNI verbs that go to the agent, with how long each may take and what it means when the agent is away.
#pragma once

#include <stdint.h>

/// Numbers are those of the frame.
enum VerbNumber { VERB_ADD = 1, VERB_DEL = 2, VERB_CHECK = 3, VERB_GC = 4, VERB_STATUS = 5 };

struct Verb {
  const char* name;
  enum VerbNumber number;
  uint32_t call_ms;     ///< From the start of the process until it has answered.
  uint32_t retry_ms;    ///< How long to keep trying an agent that is away.
  uint32_t margin_ms;   ///< By how much the agent is to give up before we do.
  unsigned error_code;  ///< CNI error code of an agent that is away, late or broken.
};

/// The verb of that name (upper case, as CNI has it), or NULL.
const struct Verb* verb_by_name(const char* name);
