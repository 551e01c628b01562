// Access to memory that the other side of a ring touches at the same time. Every field of a ring goes through these.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

#ifdef VU_SHARED_ACCESS
// A model of weak memory order in the place of the machine's: vu::shared as below (test/native/weak_memory.h).
#include VU_SHARED_ACCESS
#else
namespace vu::shared {

using std::atomic_ref;
using std::atomic_thread_fence;

template <typename T>
T read(const T& place) noexcept {
  return place;
}
template <typename T>
void write(T& place, T value) noexcept {
  place = value;
}

}  // namespace vu::shared
#endif

namespace vu {

// Both sides may touch the field at this moment: the access happens exactly once and is not torn.
template <typename T>
T loadRelaxed(T* field) noexcept {
  return shared::atomic_ref<T>(*field).load(std::memory_order_relaxed);
}
template <typename T>
T loadAcquire(T* field) noexcept {
  return shared::atomic_ref<T>(*field).load(std::memory_order_acquire);
}
template <typename T>
void storeRelaxed(T* field, std::type_identity_t<T> value) noexcept {
  shared::atomic_ref<T>(*field).store(value, std::memory_order_relaxed);
}
template <typename T>
void storeRelease(T* field, std::type_identity_t<T> value) noexcept {
  shared::atomic_ref<T>(*field).store(value, std::memory_order_release);
}
// StoreLoad: a release store is not enough before reading what the other side may have written meanwhile.
inline void fullFence() noexcept { shared::atomic_thread_fence(std::memory_order_seq_cst); }

// The other side has handed the field over by a store with release, or gets it by one.
template <typename T>
T loadPlain(const T* field) noexcept {
  return shared::read<T>(*field);
}
template <typename T>
void storePlain(T* field, std::type_identity_t<T> value) noexcept {
  shared::write<T>(*field, value);
}

}  // namespace vu
