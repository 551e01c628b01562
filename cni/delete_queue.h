/// The durable queue of DEL requests for an agent that is away (docs/architecture.md). On disk, since switch ports and
/// leases outlive a reboot.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cni_error.h"
#include "request.h"

#define STATE_DIR "/var/lib/virtio-user"

/// Takes the shared lock of the queue below `state_dir`, making the directories. While it is held no agent reads the
/// queue, so that one which is still away then, or opens its socket only now, will read what is queued meanwhile. Goes
/// on without it at the deadline: an agent that holds its own for so long reads the queue again. The lock ends with the
/// process. False with `error` 5.
bool delete_queue_lock(const char* state_dir, int64_t deadline_ms, struct CniError* error);

/// Makes the request durable; it is when this returns true. False with `error`: 11 if the queue is
/// full, 5 if it cannot be written.
bool delete_queue_write(struct Request* request, struct CniError* error);
