#include "verb.h"

#include <string.h>

#include "cni_error.h"

// Callers kill an ADD after 240 s (kubelet), a DEL after 60 s, a GC after 30 s (CRI-O). After a reboot DEL comes
// before the agent, so it waits a little. containerd 2 asks STATUS whenever kubelet asks it, 5 s after the last
// answer, with no limit of its own. An agent that is replaced is away for 2 to 4 s, and a node that is NotReady for
// that long loses its pods from their services.
static const struct Verb verbs[] = {
    {"ADD", VERB_ADD, 60000, 20000, 5000, CNI_TRY_AGAIN_LATER},
    {"DEL", VERB_DEL, 30000, 3000, 2000, CNI_TRY_AGAIN_LATER},
    {"CHECK", VERB_CHECK, 5000, 1000, 250, CNI_TRY_AGAIN_LATER},
    {"GC", VERB_GC, 25000, 1000, 1000, CNI_TRY_AGAIN_LATER},
    {"STATUS", VERB_STATUS, 7000, 5000, 100, CNI_NOT_AVAILABLE},
};

const struct Verb* verb_by_name(const char* name) {
  for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
    if (strcmp(verbs[i].name, name) == 0) return &verbs[i];
  }
  return NULL;
}
