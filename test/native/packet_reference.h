// Packets written and read the slow and obvious way, sharing no code with native/core: what its packet functions are
// compared with.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "vnet_hdr.h"

namespace vu::test::reference {

using Bytes = std::vector<uint8_t>;

// RFC 1071 by the letter: big-endian words, an odd last byte padded with zero. Not complemented.
inline uint16_t sum(const Bytes& data) {
  uint32_t total = 0;
  for (size_t i = 0; i < data.size(); i += 2) {
    total += static_cast<uint32_t>(data[i] << 8 | (i + 1 < data.size() ? data[i + 1] : 0));
    total = (total & 0xffff) + (total >> 16);
  }
  return static_cast<uint16_t>(total);
}
inline void append16(Bytes& out, uint32_t value) {
  out.push_back(static_cast<uint8_t>(value >> 8));
  out.push_back(static_cast<uint8_t>(value));
}
inline void append32(Bytes& out, uint32_t value) {
  append16(out, value >> 16);
  append16(out, value & 0xffff);
}
inline void append(Bytes& out, const Bytes& more) { out.insert(out.end(), more.begin(), more.end()); }
inline void put16(Bytes& frame, size_t at, uint32_t value) {
  frame[at] = static_cast<uint8_t>(value >> 8);
  frame[at + 1] = static_cast<uint8_t>(value);
}
inline uint16_t get16(const Bytes& frame, size_t at) { return static_cast<uint16_t>(frame[at] << 8 | frame[at + 1]); }
inline Bytes cut(const Bytes& from, size_t start, size_t bytes) {
  return Bytes(from.begin() + static_cast<long>(start), from.begin() + static_cast<long>(start + bytes));
}
inline Bytes randomBytes(std::mt19937& random, size_t bytes) {
  Bytes out(bytes);
  for (uint8_t& byte : out) byte = static_cast<uint8_t>(random());
  return out;
}

enum class Checksum : uint8_t { kComplete, kPartial };

// A TCP packet by its fields; with `udp` a UDP one, which has none of TCP's but the ports.
struct Packet {
  bool udp = false;
  Bytes macs = Bytes{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2};
  std::vector<uint16_t> vlans;
  uint16_t tpid = 0x8100;
  bool ipv6 = false;
  uint8_t trafficClass = 0;
  uint8_t ttl = 64;
  uint16_t id = 7;
  uint16_t fragment = 0x4000;
  Bytes ipOptions;
  uint32_t flowLabel = 0x12345;
  Bytes extensions;
  uint8_t firstNext = 6;
  Bytes source = Bytes{10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  Bytes destination = Bytes{10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
  // What the pseudo-header has, when a routing header leads elsewhere than `destination`.
  Bytes lastDestination;
  uint16_t sourcePort = 40000;
  uint16_t destinationPort = 5201;
  uint32_t seq = 1000;
  uint32_t ack = 77;
  uint8_t reserved = 0;
  uint8_t flags = 0x10;
  uint16_t window = 500;
  uint16_t urgent = 0;
  Bytes tcpOptions;
  Bytes payload;

  size_t l3() const { return 14 + 4 * vlans.size(); }
  size_t l4() const { return l3() + (ipv6 ? 40 + extensions.size() : 20 + ipOptions.size()); }
  size_t headerBytes() const { return l4() + (udp ? 8 : 20 + tcpOptions.size()); }
  uint8_t protocol() const { return udp ? 17 : 6; }
  uint16_t checksumOffset() const { return udp ? 6 : 16; }

  // Header and payload, the checksum 0.
  Bytes transport() const {
    Bytes out;
    append16(out, sourcePort);
    append16(out, destinationPort);
    if (udp) {
      append16(out, static_cast<uint32_t>(8 + payload.size()));
      append16(out, 0);
      append(out, payload);
      return out;
    }
    append32(out, seq);
    append32(out, ack);
    out.push_back(static_cast<uint8_t>((20 + tcpOptions.size()) / 4 << 4 | reserved));
    out.push_back(flags);
    append16(out, window);
    append16(out, 0);
    append16(out, urgent);
    append(out, tcpOptions);
    append(out, payload);
    return out;
  }

  // Ethernet frame.
  Bytes build(Checksum checksum) const {
    Bytes l4Bytes = transport();
    const size_t addressBytes = ipv6 ? 16 : 4;
    const Bytes from = cut(source, 0, addressBytes);
    const Bytes to = cut(destination, 0, addressBytes);

    Bytes pseudo = from;
    append(pseudo, lastDestination.empty() ? to : lastDestination);
    append32(pseudo, static_cast<uint32_t>(l4Bytes.size()));
    append32(pseudo, protocol());
    if (checksum == Checksum::kComplete) append(pseudo, l4Bytes);
    auto field = sum(pseudo);
    if (checksum == Checksum::kComplete) field = static_cast<uint16_t>(~field);
    // RFC 768: zero means that there is none.
    if (udp && field == 0) field = 0xffff;
    put16(l4Bytes, checksumOffset(), field);

    Bytes ip;
    if (ipv6) {
      append32(ip, 0x60000000U | static_cast<uint32_t>(trafficClass) << 20 | flowLabel);
      append16(ip, static_cast<uint32_t>(extensions.size() + l4Bytes.size()));
      ip.push_back(udp && firstNext == 6 ? protocol() : firstNext);
      ip.push_back(ttl);
      append(ip, from);
      append(ip, to);
      append(ip, extensions);
    } else {
      const size_t headerBytes = 20 + ipOptions.size();
      ip.push_back(static_cast<uint8_t>(0x40 | headerBytes / 4));
      ip.push_back(trafficClass);
      append16(ip, static_cast<uint32_t>(headerBytes + l4Bytes.size()));
      append16(ip, id);
      append16(ip, fragment);
      ip.push_back(ttl);
      ip.push_back(protocol());
      append16(ip, 0);
      append(ip, from);
      append(ip, to);
      append(ip, ipOptions);
      put16(ip, 10, static_cast<uint16_t>(~sum(ip)));
    }
    Bytes frame = macs;
    for (const uint16_t tag : vlans) {
      append16(frame, tpid);
      append16(frame, tag);
    }
    append16(frame, ipv6 ? 0x86dd : 0x0800);
    append(frame, ip);
    append(frame, l4Bytes);
    return frame;
  }

  VnetHdr partialHeader() const {
    VnetHdr header;
    header.flags = 1;
    header.csumStart = static_cast<uint16_t>(l4());
    header.csumOffset = checksumOffset();
    return header;
  }
  VnetHdr gsoHeader(uint16_t gsoSize) const {
    VnetHdr header = partialHeader();
    header.gsoType = udp ? 5 : ipv6 ? 4 : 1;
    header.gsoSize = gsoSize;
    header.hdrLen = static_cast<uint16_t>(headerBytes());
    return header;
  }

  // What a network card with TSO or USO makes of it (Linux: tcp_gso_segment, __udp_gso_segment, inet_gso_segment).
  std::vector<Packet> segments(uint16_t gsoSize) const {
    std::vector<Packet> out;
    for (size_t at = 0; at < payload.size(); at += gsoSize) {
      Packet part = *this;
      const bool last = at + gsoSize >= payload.size();
      part.payload = cut(payload, at, last ? payload.size() - at : gsoSize);
      part.seq = seq + static_cast<uint32_t>(at);
      part.id = static_cast<uint16_t>(id + out.size());
      if (!last) part.flags = static_cast<uint8_t>(part.flags & ~0x09);
      if (at != 0) part.flags = static_cast<uint8_t>(part.flags & ~0x80);
      out.push_back(part);
    }
    return out;
  }
};

inline Bytes withHeader(const VnetHdr& header, const Bytes& frame) {
  Bytes out(12);
  header.write(out.data(), 12);
  append(out, frame);
  return out;
}

// An extension header of `bytes` bytes that leads to `next`.
inline Bytes extension(uint8_t next, size_t bytes) {
  Bytes out(bytes, 0);
  out[0] = next;
  out[1] = static_cast<uint8_t>(bytes / 8 - 1);
  return out;
}

// Any lawful TCP data packet of the shapes that the pump meets. With `plain`, one that may be merged.
inline Packet randomPacket(std::mt19937& random, size_t payloadBytes, bool plain) {
  Packet packet;
  packet.macs = randomBytes(random, 12);
  if (plain) packet.macs[0] &= 0xfe;  // To one pod.
  for (auto tags = random() % 3; tags > 0; --tags) packet.vlans.push_back(static_cast<uint16_t>(random()));
  packet.tpid = random() % 2 != 0 ? 0x8100 : 0x88a8;
  packet.ipv6 = random() % 2 != 0;
  packet.trafficClass = static_cast<uint8_t>(random());
  packet.ttl = static_cast<uint8_t>(random());
  packet.id = static_cast<uint16_t>(random());
  packet.fragment = random() % 2 != 0 ? 0x4000 : 0;
  packet.flowLabel = random() & 0xfffff;
  packet.source = randomBytes(random, 16);
  packet.destination = randomBytes(random, 16);
  packet.sourcePort = static_cast<uint16_t>(random());
  packet.destinationPort = static_cast<uint16_t>(random());
  packet.seq = static_cast<uint32_t>(random());
  packet.ack = static_cast<uint32_t>(random());
  packet.window = static_cast<uint16_t>(random());
  packet.urgent = static_cast<uint16_t>(random());
  packet.tcpOptions = randomBytes(random, random() % 11 * 4);
  packet.payload = randomBytes(random, payloadBytes);
  if (plain) return packet;
  packet.flags = static_cast<uint8_t>(0x10 | (random() & 0xc9));
  packet.ipOptions = randomBytes(random, random() % 11 * 4);
  if (packet.ipv6 && random() % 2 != 0) {
    packet.firstNext = 0;
    packet.extensions = extension(60, 8);
    append(packet.extensions, extension(6, 16));
  }
  return packet;
}

}  // namespace vu::test::reference
