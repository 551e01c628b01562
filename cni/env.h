/// The CNI environment: what each verb needs, what each variable may hold, and which are handed to the agent.
#pragma once

#include <stdbool.h>

#include "cni_error.h"
#include "verb.h"

/// Checks every variable that matters to `verb`. False with `error` (code 4) naming all the bad ones.
bool env_validate(const struct Verb* verb, struct CniError* error);

/// Calls `take` with name and value of each variable that the agent gets; false as soon as it returns false, with
/// `error` (code 4) naming that variable as too large.
bool env_forward(const struct Verb* verb, bool (*take)(const char* name, const char* value), struct CniError* error);

/// The variable's value, or `fallback` where it is unset or empty.
const char* env_or(const char* name, const char* fallback);
