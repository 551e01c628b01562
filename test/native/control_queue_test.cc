// The control queue: a driver that follows the rules, and rings that somebody has written nonsense into.
#include "control_queue.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>

namespace vu::test {
namespace {

struct QueueCase {
  bool packed = false;
  bool inOrder = false;
};

class ControlWorld {
 public:
  explicit ControlWorld(const QueueCase& given)
      : layout(ControlLayout::at(0, given.packed)),
        state(static_cast<size_t>(layout.end) / 64 + 1),
        queue(bytes(), layout, given.packed, given.inOrder) {
    split = Vring::over(bytes() + layout.region, layout.vring, kControlQueueSize);
    packedRing = PackedRing::over(bytes() + layout.region, layout.vring, kControlQueueSize);
  }
  uint8_t* bytes() { return state.data()->data(); }
  uint8_t* slot(size_t at) { return bytes() + layout.slots + at; }
  uint64_t slotLabel(size_t at) const { return kControlLabel + (layout.slots - layout.region) + at; }

  // A chain written by hand: descriptors with the flags given, made available together.
  struct Part {
    uint64_t label;
    uint32_t len;
    uint16_t flags;
  };
  void offer(bool packed, const std::vector<Part>& parts) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto index = static_cast<uint16_t>(i);
      if (packed) {
        // First lap: available is AVAIL without USED. The first flag last, as a driver does.
        packedRing.desc[i] = PackedDesc{parts[i].label, parts[i].len, 0, parts[i].flags};
        packedRing.desc[i].flags = static_cast<uint16_t>(parts[i].flags | kPackedAvail);
      } else {
        split.desc[i] = VringDesc{parts[i].label, parts[i].len, parts[i].flags, static_cast<uint16_t>(index + 1)};
      }
    }
    if (packed) return;
    split.availRing[0] = 0;
    *split.availIdx = 1;
  }
  // What the device side wrote as used: the ack was given and the chain is the driver's again.
  bool used(bool packed) const {
    return packed ? isUsed(packedRing.desc[0].flags, true) && packedRing.desc[0].len == 1
                  : *split.usedIdx == 1 && split.usedRing[0].id == 0 && split.usedRing[0].len == 1;
  }

  ControlLayout layout;
  std::vector<std::array<uint8_t, 64>> state;
  ControlQueue queue;
  Vring split;
  PackedRing packedRing;
};

class EveryControlQueue : public ::testing::TestWithParam<QueueCase> {};

INSTANTIATE_TEST_SUITE_P(Rings, EveryControlQueue,
                         ::testing::Values(QueueCase{false, false}, QueueCase{false, true}, QueueCase{true, false},
                                           QueueCase{true, true}),
                         [](const auto& info) {
                           return std::string(info.param.packed ? "packed" : "split") +
                                  (info.param.inOrder ? "_in_order" : "_any_order");
                         });

TEST_P(EveryControlQueue, CarriesCommandsOfEveryLengthAndTheirAnswersOverManyLaps) {
  ControlWorld world(GetParam());
  std::mt19937 random(6);
  for (int round = 0; round < 2000; ++round) {
    ControlCommand sent{static_cast<uint8_t>(round % 6), static_cast<uint8_t>(round % 7), {}};
    sent.data.resize(round % 5 == 0 ? 0 : random() % (round % 100 == 1 ? kControlDataBytes + 1 : 40));
    for (uint8_t& byte : sent.data) byte = static_cast<uint8_t>(random());
    const auto token = world.queue.submit(sent);
    ASSERT_TRUE(token.ok());
    EXPECT_FALSE(world.queue.takeAnswer());
    const auto served = world.queue.next();
    ASSERT_TRUE(served) << (world.queue.broken() != nullptr ? world.queue.broken() : "nothing there");
    EXPECT_EQ(served->commandClass, sent.commandClass);
    EXPECT_EQ(served->command, sent.command);
    EXPECT_EQ(served->data, sent.data);
    // One at a time.
    EXPECT_FALSE(world.queue.next());
    const auto ack = static_cast<uint8_t>(round % 2);
    world.queue.complete(ack);
    const auto answer = world.queue.takeAnswer();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->token, token.value());
    EXPECT_EQ(answer->ack, ack);
    EXPECT_FALSE(world.queue.takeAnswer());
  }
  EXPECT_EQ(world.queue.broken(), nullptr);
}

TEST_P(EveryControlQueue, AnswersSeveralCommandsInTheirOrderAndRefusesMoreThanItHolds) {
  ControlWorld world(GetParam());
  std::vector<uint16_t> tokens;
  for (;;) {
    const auto token = world.queue.submit({1, 1, {1, 2, 3, 4, 5, static_cast<uint8_t>(tokens.size())}});
    if (!token) {
      EXPECT_EQ(token.fault().errnum, ENOSPC);
      break;
    }
    tokens.push_back(token.value());
  }
  EXPECT_EQ(tokens.size(), kControlQueueSize / 3);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto served = world.queue.next();
    ASSERT_TRUE(served);
    EXPECT_EQ(served->data.back(), i);
    world.queue.complete(kControlOk);
  }
  for (const uint16_t token : tokens) EXPECT_EQ(world.queue.takeAnswer()->token, token);
  EXPECT_TRUE(world.queue.submit({0, 0, {1}}).ok());
}

TEST_P(EveryControlQueue, RefusesDataLongerThanACommandCanBe) {
  ControlWorld world(GetParam());
  const auto refused = world.queue.submit({1, 0, std::vector<uint8_t>(kControlDataBytes + 1)});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.fault().errnum, EMSGSIZE);
  EXPECT_TRUE(world.queue.submit({1, 0, std::vector<uint8_t>(kControlDataBytes)}).ok());
}

TEST_P(EveryControlQueue, TakesHeaderAndDataCutAtAnyByte) {
  const bool packed = GetParam().packed;
  ControlWorld world(GetParam());
  const uint8_t command[5] = {4, 0, 2, 0, 9};
  std::memcpy(world.slot(0), command, 5);
  std::vector<ControlWorld::Part> parts;
  for (size_t i = 0; i < 5; ++i) parts.push_back({world.slotLabel(i), 1, kDescNext});
  parts.push_back({world.slotLabel(100), 1, kDescWrite});
  world.offer(packed, parts);
  const auto served = world.queue.next();
  ASSERT_TRUE(served);
  EXPECT_EQ(served->commandClass, 4);
  EXPECT_EQ(served->data, (std::vector<uint8_t>{2, 0, 9}));
  world.queue.complete(kControlOk);
  EXPECT_EQ(*world.slot(100), kControlOk);
  EXPECT_TRUE(world.used(packed));
}

// Wrong, but with a place for the ack: refused there, and the queue goes on.
TEST_P(EveryControlQueue, F61_AnswersWrongChainsThatHaveAnAckWithAnErrorAndServesNothing) {
  const bool packed = GetParam().packed;
  const auto next = kDescNext;
  const auto write = kDescWrite;
  const auto writeNext = static_cast<uint16_t>(kDescWrite | kDescNext);
  const std::vector<std::pair<const char*, std::function<std::vector<ControlWorld::Part>(ControlWorld&)>>> wrong = {
      {"no header",
       [&](ControlWorld& w) {
         return std::vector<ControlWorld::Part>{{w.slotLabel(0), 1, write}};
       }},
      {"half a header",
       [&](ControlWorld& w) {
         return std::vector<ControlWorld::Part>{{w.slotLabel(8), 1, next}, {w.slotLabel(0), 1, write}};
       }},
      {"longer than any",
       [&](ControlWorld& w) {
         return std::vector<ControlWorld::Part>{
             {w.slotLabel(8), 4000, next}, {w.slotLabel(8), 99, next}, {w.slotLabel(0), 1, write}};
       }},
      {"data behind the ack",
       [&](ControlWorld& w) {
         return std::vector<ControlWorld::Part>{
             {w.slotLabel(8), 2, next}, {w.slotLabel(0), 1, writeNext}, {w.slotLabel(8), 2, 0}};
       }},
      {"two acks", [&](ControlWorld& w) {
         return std::vector<ControlWorld::Part>{
             {w.slotLabel(8), 2, next}, {w.slotLabel(0), 1, writeNext}, {w.slotLabel(1), 1, write}};
       }}};
  for (const auto& [name, parts] : wrong) {
    ControlWorld world(GetParam());
    *world.slot(0) = 0xff;
    world.offer(packed, parts(world));
    EXPECT_FALSE(world.queue.next()) << name;
    EXPECT_EQ(world.queue.broken(), nullptr) << name;
    EXPECT_EQ(*world.slot(0), kControlError) << name;
    EXPECT_TRUE(world.used(packed)) << name;
  }
}

// No place to say it: the control queue ends, and nothing else.
TEST_P(EveryControlQueue, F61_EndsAtChainsThatNameNoPlaceForAnAck) {
  const bool packed = GetParam().packed;
  const auto next = kDescNext;
  const std::vector<std::pair<const char*, std::function<void(ControlWorld&)>>> wrong = {
      {"control chain without a place for its ack",
       [&](ControlWorld& w) {
         w.offer(packed, {{w.slotLabel(0), 2, 0}});
       }},
      {"control chain with an empty ack",
       [&](ControlWorld& w) {
         w.offer(packed, {{w.slotLabel(0), 2, next}, {w.slotLabel(8), 0, kDescWrite}});
       }},
      {"control chain with an indirect table",
       [&](ControlWorld& w) {
         w.offer(packed, {{w.slotLabel(0), 16, 4}});
       }},
      {"control buffer outside its memory",
       [&](ControlWorld& w) {
         w.offer(packed, {{kControlLabel + w.layout.end - w.layout.region - 1, 2, next}});
       }},
      {"control buffer outside its memory",
       [&](ControlWorld& w) {
         w.offer(packed, {{~uint64_t{0} - 1, 2, next}});
       }},
      {"control buffer outside its memory",
       [&](ControlWorld& w) {
         w.offer(packed, {{kControlLabel - 1, 2, next}});
       }},
      {"control chain that does not end", [&](ControlWorld& w) {
         w.offer(packed, std::vector<ControlWorld::Part>(kControlQueueSize, {w.slotLabel(0), 0, next}));
         // Split: a loop. Packed: the whole ring available on this lap and the next.
         if (packed) {
           for (uint32_t i = 0; i < kControlQueueSize; ++i) w.packedRing.desc[i].id = 0;
           // Whoever goes round meets the flags of the first lap: not available on the second.
         } else {
           w.split.desc[3].next = 1;
         }
       }}};
  for (const auto& [reason, spoil] : wrong) {
    ControlWorld world(GetParam());
    spoil(world);
    EXPECT_FALSE(world.queue.next()) << reason;
    ASSERT_NE(world.queue.broken(), nullptr) << reason;
    if (!packed || std::string(reason) != "control chain that does not end") {
      EXPECT_STREQ(world.queue.broken(), reason);
    }
    EXPECT_FALSE(world.queue.submit({0, 0, {1}}).ok()) << reason;
    EXPECT_FALSE(world.queue.takeAnswer()) << reason;
  }
}

TEST(SplitControlQueue, F61_EndsAtAnIndexOrADescriptorThatCannotBe) {
  for (const uint16_t jump : {uint16_t{kControlQueueSize + 1}, uint16_t{0xffff}}) {
    ControlWorld world({});
    *world.split.availIdx = jump;
    EXPECT_FALSE(world.queue.next());
    EXPECT_STREQ(world.queue.broken(), "control avail index moved by more than the ring");
  }
  ControlWorld head({});
  head.split.availRing[0] = kControlQueueSize;
  *head.split.availIdx = 1;
  EXPECT_FALSE(head.queue.next());
  EXPECT_STREQ(head.queue.broken(), "control descriptor that is not of the ring");
  ControlWorld link({});
  link.offer(false, {{link.slotLabel(0), 2, kDescNext}});
  link.split.desc[0].next = 0xffff;
  EXPECT_FALSE(link.queue.next());
  EXPECT_STREQ(link.queue.broken(), "control descriptor that is not of the ring");
}

TEST_P(EveryControlQueue, EndsWhenTheUsedRingSaysWhatCannotBe) {
  ControlWorld world(GetParam());
  ASSERT_TRUE(world.queue.submit({0, 0, {1}}).ok());
  ASSERT_TRUE(world.queue.next());
  world.queue.complete(kControlOk);
  if (GetParam().packed) {
    world.packedRing.desc[0].id = 40;
  } else {
    world.split.usedRing[0].id = 40;
  }
  EXPECT_FALSE(world.queue.takeAnswer());
  EXPECT_NE(world.queue.broken(), nullptr);
}

}  // namespace
}  // namespace vu::test
