// Files that survive a power failure. Calls that may wait for the disk: not for the JavaScript thread.
#pragma once

#include <string>

#include "result.h"

namespace vu {

// Writes `contents` to a new file `temporary` (0600), makes them durable and renames it to `path`, on the same file
// system. A failure leaves `path` as it was, and no `temporary`. The new name is durable after syncDirectory().
Result<void> replaceFile(const std::string& temporary, const std::string& path, const std::string& contents) noexcept;

// Makes durable what was created, renamed or removed in a directory.
Result<void> syncDirectory(const std::string& path) noexcept;

}  // namespace vu
