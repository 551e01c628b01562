#include "env.h"

#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

/// How much of a value a message quotes.
enum { QUOTED_BYTES = 64, MAX_STATE_DIR = 3072, MAX_TRACEPARENT = 128 };

static bool is_alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

// Each of these returns what the value must be, or NULL if it is.

/// CNI specification 1.1.0, "Parameters": the same rule as for network names.
static const char* container_id_rule(const char* value) {
  const char* rule = "must start with a letter or digit and hold only these, '_', '.' and '-'";
  if (!is_alphanumeric(*value)) return rule;
  for (; *value != '\0'; value++) {
    if (!is_alphanumeric(*value) && strchr("_.-", *value) == NULL) return rule;
  }
  return NULL;
}

/// What the kernel takes for a name (dev_valid_name in net/core/dev.c).
static const char* ifname_rule(const char* value) {
  if (strlen(value) > 15) return "must have at most 15 bytes";
  if (strcmp(value, ".") == 0 || strcmp(value, "..") == 0) return "must not be '.' or '..'";
  return strpbrk(value, "/: \t\n\v\f\r") == NULL ? NULL : "must not hold '/', ':' or white space";
}

/// What TUNSETIFF takes for a name: a '%' starts a pattern (dev_alloc_name in net/core/dev.c).
static const char* new_ifname_rule(const char* value) {
  const char* problem = ifname_rule(value);
  if (problem != NULL) return problem;
  return strchr(value, '%') == NULL ? NULL : "must not hold '%'";
}

/// W3C Trace Context, section 3.2, with room for later versions.
static const char* traceparent_rule(const char* value) {
  const char* rule = "must be hexadecimal fields joined by '-'";
  return strspn(value, "0123456789abcdef-") == strlen(value) && strlen(value) <= MAX_TRACEPARENT ? NULL : rule;
}

static const char* socket_rule(const char* value) {
  if (*value != '/') return "must be an absolute path";
  return strlen(value) < sizeof(((struct sockaddr_un*)0)->sun_path) ? NULL : "must have at most 107 bytes";
}

static const char* state_dir_rule(const char* value) {
  if (*value != '/') return "must be an absolute path";
  return strlen(value) <= MAX_STATE_DIR ? NULL : "must have at most 3072 bytes";
}

#define ONLY(verb) (1u << VERB_##verb)
#define POD (ONLY(ADD) | ONLY(DEL) | ONLY(CHECK))
#define ALL (POD | ONLY(GC) | ONLY(STATUS))

enum Fate { FORWARDED, FORWARDED_IF_VALID, OURS };

struct Variable {
  const char* name;
  unsigned required;  ///< By these verbs, and not empty.
  unsigned optional;  ///< For these; elsewhere it is neither checked nor forwarded.
  const char* (*rule)(const char* value);
  enum Fate fate;
};

// CNI_PATH is optional where no IPAM plugin is configured, which the agent knows; CNI_ARGS has a syntax whose errors
// are fatal to some verbs only, so the agent parses it too. A name that libcni lets pass and no interface can have must
// not keep its pod from going away, so DEL takes it.
static const struct Variable variables[] = {
    {"CNI_COMMAND", ALL, 0, NULL, FORWARDED},
    {"CNI_CONTAINERID", POD, 0, container_id_rule, FORWARDED},
    {"CNI_NETNS", ONLY(ADD) | ONLY(CHECK), ONLY(DEL), NULL, FORWARDED},
    {"CNI_IFNAME", ONLY(ADD) | ONLY(CHECK), 0, new_ifname_rule, FORWARDED},
    {"CNI_IFNAME", ONLY(DEL), 0, ifname_rule, FORWARDED},
    {"CNI_ARGS", 0, POD, NULL, FORWARDED},
    {"CNI_PATH", ONLY(GC), POD | ONLY(STATUS), NULL, FORWARDED},
    {"CNI_NETNS_OVERRIDE", 0, POD, NULL, FORWARDED},
    {"TRACEPARENT", 0, ALL, traceparent_rule, FORWARDED_IF_VALID},
    {"VIRTIO_USER_AGENT_SOCKET", 0, ALL, socket_rule, OURS},
    {"VIRTIO_USER_STATE_DIR", 0, ONLY(DEL), state_dir_rule, OURS},
};
enum { VARIABLES = sizeof variables / sizeof *variables };

/// What is wrong with the value for this verb, or NULL.
static const char* problem_of(const struct Variable* variable, unsigned verb, const char* value) {
  bool required = (variable->required & verb) != 0;
  if (!required && (variable->optional & verb) == 0) return NULL;
  if (value == NULL) return required ? "is not set" : NULL;
  if (*value == '\0') return required ? "is empty" : NULL;
  return variable->rule == NULL ? NULL : variable->rule(value);
}

bool env_validate(const struct Verb* verb, struct CniError* error) {
  struct Text* message = &error->message;
  for (size_t i = 0; i < VARIABLES; i++) {
    const struct Variable* variable = &variables[i];
    if (variable->fate == FORWARDED_IF_VALID) continue;
    const char* value = getenv(variable->name);
    const char* problem = problem_of(variable, 1u << verb->number, value);
    if (problem == NULL) continue;
    if (error->code == 0) {
      error->code = CNI_BAD_ENVIRONMENT;
      text_set(message, "CNI environment of ", verb->name, ": ", variable->name);
    } else {
      text_add(message, "; ");
      text_add(message, variable->name);
    }
    if (value != NULL && *value != '\0') {
      text_add(message, " '");
      text_add_cut(message, value, QUOTED_BYTES);
      text_add(message, strlen(value) > QUOTED_BYTES ? "...'" : "'");
    }
    text_add(message, " ");
    text_add(message, problem);
  }
  return error->code == 0;
}

bool env_forward(const struct Verb* verb, bool (*take)(const char* name, const char* value), struct CniError* error) {
  unsigned bit = 1u << verb->number;
  for (size_t i = 0; i < VARIABLES; i++) {
    const struct Variable* variable = &variables[i];
    const char* value = getenv(variable->name);
    if (value == NULL || variable->fate == OURS || ((variable->required | variable->optional) & bit) == 0) continue;
    if (variable->fate == FORWARDED_IF_VALID && problem_of(variable, bit, value) != NULL) continue;
    if (!take(variable->name, value)) {
      error->code = CNI_BAD_ENVIRONMENT;
      text_set(&error->message, "CNI environment of ", verb->name, ": ", variable->name,
               " is too large, all variables together may have 65536 bytes");
      return false;
    }
  }
  return true;
}

const char* env_or(const char* name, const char* fallback) {
  const char* value = getenv(name);
  return value == NULL || *value == '\0' ? fallback : value;
}
