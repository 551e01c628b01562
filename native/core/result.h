// Outcome of an operation that may fail with an errno; core/ knows no exceptions.
#pragma once

#include <cerrno>
#include <optional>
#include <utility>

namespace vu {

// A failed system call. `operation` names the call and its object; a string literal, never freed.
struct Fault {
  int errnum = 0;
  const char* operation = "";
};

// Reads errno at once: call it directly after the system call.
inline Fault lastFault(const char* operation) noexcept { return Fault{errno, operation}; }

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) noexcept : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Result(Fault fault) noexcept : fault_(fault) {}         // NOLINT(google-explicit-constructor)

  bool ok() const noexcept { return value_.has_value(); }
  explicit operator bool() const noexcept { return ok(); }
  // Only after ok().
  T& value() & noexcept { return *value_; }
  const T& value() const& noexcept { return *value_; }
  T&& value() && noexcept { return std::move(*value_); }
  // Only when not ok().
  const Fault& fault() const noexcept { return fault_; }

 private:
  std::optional<T> value_;
  Fault fault_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() noexcept = default;
  Result(Fault fault) noexcept : fault_(fault) {}  // NOLINT(google-explicit-constructor)

  bool ok() const noexcept { return fault_.errnum == 0; }
  explicit operator bool() const noexcept { return ok(); }
  const Fault& fault() const noexcept { return fault_; }

 private:
  Fault fault_;
};

}  // namespace vu
