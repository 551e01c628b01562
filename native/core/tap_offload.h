// TUNSETOFFLOAD: what the pod's kernel may hand to a TAP's reader. And what asking for it tells about the kernel.
#pragma once

#include "result.h"

namespace vu {

// `mask`: TUN_F_* of linux/if_tun.h. Errors: EINVAL (a combination that no kernel takes), EBADFD (no TAP any more).
Result<void> setTapOffload(int tap, unsigned mask) noexcept;

// false: this kernel is known to refuse a frame of several UDP datagrams (VIRTIO_NET_HDR_GSO_UDP_L4). Kernels take it
// since 6.2, which is also when TUN_F_USO4 and TUN_F_USO6 came: so the first setTapOffload() of the process finds out.
bool tapTakesDatagramRuns() noexcept;

}  // namespace vu
