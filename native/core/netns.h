// Network namespaces: opened, verified, entered by a thread of its own.
#pragma once

#include <functional>
#include <string>

#include "result.h"
#include "unique_fd.h"

namespace vu {

// EINVAL when the file is not a network namespace.
Result<UniqueFd> openNetns(const std::string& path) noexcept;
Result<void> checkNetns(int fd) noexcept;
// Of the calling thread.
Result<UniqueFd> ownNetns() noexcept;

// Enters the namespace for good: only on a thread that ends afterwards, never on the JS thread or a pool thread, whose
// later work would run in the pod's network.
Result<void> enterNetns(int fd) noexcept;

}  // namespace vu
