/// What the executable says about itself: the VERSION verb and the text for humans. Needs no agent and no files.
#pragma once

#include <stdbool.h>

/// Answers VERSION on stdout. `version` is the caller's own (JSON-safe) or NULL. False if stdout took it not.
bool version_print(const char* version);

/// Says on stderr what this is, for who runs it by hand.
void version_about(void);
