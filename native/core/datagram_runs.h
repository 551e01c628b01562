// Whether a TAP may be given several UDP datagrams in one frame (VIRTIO_NET_HDR_GSO_UDP_L4).
//
// Linux takes it since 6.2, and cuts it apart for sockets. But before 6.9 the socket of a tunnel in the pod (VXLAN,
// Geneve) took such a frame for one packet ("udp: do not accept non-tunnel GSO skbs landing in a tunnel").
#pragma once

namespace vu {

// Of the running kernel; asked once.
bool kernelTakesDatagramRuns() noexcept;
// Of a kernel by its release, as uname(2) has it: "6.18.44-cloud".
bool takesDatagramRuns(const char* release) noexcept;

}  // namespace vu
