// Removes a link without waiting for what the kernel does afterwards.
//
// RTM_DELLINK takes the link out of the namespace within a millisecond and tells everybody so, but its sender sleeps on
// until the last reference has been dropped behind an rcu_barrier(): 10 to 20 ms in which a pod's DEL would wait for
// nothing. Here a thread sleeps for it, and the caller goes on when the kernel has said that the link is gone.
#pragma once

#include "result.h"
#include "rtnetlink.h"

namespace vu {

// On a thread that has entered the namespace; `netlink` is used up. ENODEV: there is no such link.
Result<void> removeLink(Rtnetlink netlink, uint32_t ifindex) noexcept;

}  // namespace vu
