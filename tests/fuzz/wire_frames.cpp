// The messages between ranks. What a decoder lets through must be within the message.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/comm/mailbox.h"
#include "runtime/step/orders.h"
#include "runtime/step/step.h"
#include "tests/fuzz/require.h"

namespace {

template <class Decode>
void try_decode(Decode decode) {
  try {
    decode();
  } catch (const kt::Error&) {
  }
}

void check_order(const std::vector<std::byte>& message) {
  kt::Order o;
  if (message.size() < sizeof o) return;
  std::memcpy(&o, message.data(), sizeof o);
  const kt::DispatchShape shape{.rows = 16, .hidden = 8, .top_k = 2, .experts = 8};
  if (!kt::fits(o, o.number, shape)) return;
  require(o.first >= 0 && o.count >= 0 && int64_t{o.first} + o.count <= 16, "rows are within the inbox");
  require(o.listed >= 0 && o.listed <= 8, "the list is within the inbox");
  require(o.late == 0, "late experts are refused where there is no room for them");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  const std::vector<std::byte> message(begin, begin + size);  // aligned, as a received message is
  try_decode([&] {
    const kt::StepPlan plan = kt::decode_step_plan(message);
    require(kt::decode_step_plan(kt::encode(plan)).tokens == plan.tokens, "a plan that was read can be sent on");
  });
  try_decode([&] { kt::decode_step_report(message); });
  check_order(message);
  return 0;
}
