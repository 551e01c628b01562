// The Internet checksum against the textbook.
#include "checksum.h"

#include <gtest/gtest.h>

#include <memory>

#include "packet_reference.h"

namespace vu::test {
namespace {

using reference::Bytes;

// As the number in the packet; a folded sum is in memory order.
uint16_t value(uint64_t sum) { return __builtin_bswap16(checksumFold(sum)); }

// In an allocation of its own size and alignment, so that a sanitizer sees every byte read beyond it.
struct Exact {
  Exact(const Bytes& from, size_t shift) : memory(new uint8_t[from.size() + shift]), data(memory.get() + shift) {
    std::copy(from.begin(), from.end(), data);
  }
  std::unique_ptr<uint8_t[]> memory;
  uint8_t* data;
};

TEST(ChecksumSum, IsTheTextbooksForEveryLengthAndAlignment) {
  std::mt19937 random(1);
  for (size_t bytes = 0; bytes <= 260; ++bytes) {
    const Bytes data = reference::randomBytes(random, bytes);
    const uint16_t expected = reference::sum(data);
    for (size_t shift = 0; shift < 17; ++shift) {
      const Exact exact(data, shift);
      ASSERT_EQ(value(checksumAdd(0, exact.data, bytes)), expected) << bytes << " bytes at " << shift;
    }
  }
}

TEST(ChecksumSum, LosesNoCarryInTheLargestFrame) {
  for (const size_t bytes : {65535UL, 65536UL, 65601UL, 1048573UL}) {
    const Bytes ones(bytes, 0xff);
    EXPECT_EQ(value(checksumAdd(0, ones.data(), bytes)), reference::sum(ones)) << bytes;
    EXPECT_EQ(value(checksumAdd(~uint64_t{0}, ones.data(), bytes)), reference::sum(ones)) << bytes;
  }
}

TEST(ChecksumSum, ContinuesFromAnySum) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t start = random();
    Bytes words(8);
    std::memcpy(words.data(), &start, 8);
    Bytes more(random() % 90);
    for (uint8_t& byte : more) byte = static_cast<uint8_t>(random());
    const uint16_t got = value(checksumAdd(start, more.data(), more.size()));
    reference::append(words, more);
    ASSERT_EQ(got, reference::sum(words));
  }
}

TEST(ChecksumSpans, AgreeWithTheWholeForEveryPairOfCuts) {
  std::mt19937 random(3);
  const Bytes data = reference::randomBytes(random, 150);
  for (size_t skip = 0; skip < 20; ++skip) {
    const uint16_t expected = reference::sum(reference::cut(data, skip, data.size() - skip));
    for (size_t first = 0; first <= data.size(); first += 1 + first / 8) {
      for (size_t second = first; second <= data.size(); second += 1 + second / 16) {
        const Exact a(reference::cut(data, 0, first), 0);
        const Exact b(reference::cut(data, first, second - first), 1);
        const Exact c(reference::cut(data, second, data.size() - second), 0);
        const iovec spans[3] = {{a.data, first}, {b.data, second - first}, {c.data, data.size() - second}};
        ASSERT_EQ(value(checksumAddSpans(0, spans, 3, skip)), expected) << skip << ' ' << first << ' ' << second;
      }
    }
  }
}

TEST(ChecksumSpans, SkipOfEverythingAddsNothing) {
  Bytes data(10, 1);
  const iovec spans[2] = {{data.data(), 4}, {data.data() + 4, 6}};
  EXPECT_EQ(checksumAddSpans(5, spans, 2, 10), 5U);
  EXPECT_EQ(checksumAddSpans(5, spans, 2, 11), 5U);
}

TEST(ChecksumPseudoHeader, IsThatOfRfc9293AndRfc8200) {
  std::mt19937 random(4);
  for (int i = 0; i < 200; ++i) {
    const bool ipv6 = i % 2 != 0;
    const Bytes addresses = reference::randomBytes(random, ipv6 ? 32 : 8);
    const auto protocol = static_cast<uint8_t>(random());
    const auto bytes = static_cast<uint32_t>(random() % 70000);
    Bytes pseudo = addresses;
    reference::append32(pseudo, bytes);
    reference::append32(pseudo, protocol);
    ASSERT_EQ(value(pseudoHeaderSum(addresses.data(), ipv6, protocol, bytes)), reference::sum(pseudo));
  }
}

TEST(ChecksumCompletion, MakesAPartialChecksumTheWholeOne) {
  std::mt19937 random(5);
  for (int i = 0; i < 300; ++i) {
    const reference::Packet packet = reference::randomPacket(random, random() % 3000, false);
    Bytes frame = packet.build(reference::Checksum::kPartial);
    const auto start = static_cast<uint16_t>(packet.l4());
    ASSERT_TRUE(completeChecksum(frame.data(), frame.size(), start, 16));
    ASSERT_EQ(frame, packet.build(reference::Checksum::kComplete));
  }
}

TEST(ChecksumCompletion, ZeroIsSentAsAllOnes) {
  // Words that add up to 0xffff: their complement is zero, which UDP reads as "none" (RFC 768).
  Bytes datagram{0x12, 0x34, 0xed, 0xcb, 0, 0, 0, 0};
  ASSERT_TRUE(completeChecksum(datagram.data(), datagram.size(), 0, 6));
  EXPECT_EQ(reference::get16(datagram, 6), 0xffff);
}

TEST(ChecksumCompletion, FieldOutsideTheFrameIsRefusedAndNothingWritten) {
  const Bytes frame(60, 7);
  for (const auto& [start, offset] : {std::pair{0, 59}, std::pair{59, 0}, std::pair{60, 0}, std::pair{61, 0},
                                      std::pair{44, 16}, std::pair{43, 16}, std::pair{65535, 65535}}) {
    const Exact exact(frame, 0);
    EXPECT_FALSE(
        completeChecksum(exact.data, frame.size(), static_cast<uint16_t>(start), static_cast<uint16_t>(offset)))
        << start << '+' << offset;
    EXPECT_EQ(Bytes(exact.data, exact.data + frame.size()), frame);
  }
  const Exact exact(frame, 0);
  EXPECT_TRUE(completeChecksum(exact.data, frame.size(), 42, 16));
  EXPECT_FALSE(completeChecksum(exact.data, 0, 0, 0));
}

}  // namespace
}  // namespace vu::test
