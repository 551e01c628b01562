// The fuzzer writes the control ring: the device side neither leaves its memory nor loops, and answers at most what was
// made available. Between its writes an honest driver sends commands of its own.
//
//   clang++ -fsanitize=fuzzer,address,undefined; the first byte chooses the ring, the rest is a list of operations.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "control_queue.h"
#include "input.h"

namespace {

using namespace vu;
using vu::test::Input;

void check(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const uint8_t options = input.byte();
  const bool packed = (options & 1) != 0;
  const ControlLayout layout = ControlLayout::at(0, packed);
  // Exactly as large as said, so that the first byte beyond is seen.
  std::vector<uint64_t> memory(static_cast<size_t>(layout.end) / 8);
  auto* const state = reinterpret_cast<uint8_t*>(memory.data());
  ControlQueue queue(state, layout, packed, (options & 2) != 0);
  uint8_t* const ring = state + layout.region;
  const size_t ringBytes = layout.vring.end;

  while (!input.empty()) {
    switch (input.byte() % 6) {
      case 0: {
        ControlCommand command{input.byte(), input.byte(), {}};
        command.data.resize(input.byte());
        (void)queue.submit(command);
        break;
      }
      case 1:
        if (auto command = queue.next()) {
          check(command->data.size() <= kControlDataBytes);
          queue.complete(input.byte());
        }
        break;
      case 2:
        (void)queue.takeAnswer();
        break;
      case 3:
        ring[input.word() % ringBytes] = input.byte();
        break;
      case 4: {
        // A descriptor that may well be accepted.
        const size_t at = input.byte() % kControlQueueSize;
        VringDesc desc{kControlLabel + layout.vring.end + input.word(), input.byte(), input.byte(), input.byte()};
        if (packed) desc.flags = static_cast<uint16_t>(desc.flags | input.byte() << 8 | kPackedAvail);
        std::memcpy(ring + layout.vring.desc + 16 * at, &desc, sizeof desc);
        break;
      }
      default:
        if (!packed) {
          const Vring split = Vring::over(ring, layout.vring, kControlQueueSize);
          split.availRing[*split.availIdx % kControlQueueSize] = input.byte();
          ++*split.availIdx;
        }
    }
  }
  // However the ring looks, serving ends.
  for (uint32_t i = 0; queue.next(); ++i) {
    check(i <= 2 * kControlQueueSize);
    queue.complete(kControlOk);
  }
  return 0;
}
