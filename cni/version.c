#include "version.h"

#include <stdint.h>
#include <unistd.h>

#include "cni_error.h"
#include "io.h"
#include "text.h"

enum { WRITE_MS = 1000 };

bool version_print(const char* version) {
  struct Text reply;
  text_set(&reply, "{\"cniVersion\":\"", version == NULL ? CNI_DEFAULT_VERSION : version,
           "\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n");
  return write_all(STDOUT_FILENO, reply.bytes, reply.length, now_ms() + WRITE_MS);
}

void version_about(void) {
  struct Text about;
  text_set(&about,
           "virtio-user " VU_VERSION
           ": CNI plugin that gives a pod a virtio-user device on a vhost-user switch\n"
           "CNI versions: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0. Container runtimes call it; see the virtio-user-cni "
           "command for everything else.\n");
  (void)write_all(STDERR_FILENO, about.bytes, about.length, now_ms() + WRITE_MS);
}
