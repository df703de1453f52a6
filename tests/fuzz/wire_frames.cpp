// The messages between ranks. What a decoder lets through must be within the message.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/model/dispatch.h"
#include "runtime/model/orders.h"
#include "runtime/model/step.h"
#include "tests/fuzz/require.h"

namespace {

template <class Decode>
void try_decode(Decode decode) {
  try {
    decode();
  } catch (const kt::Error&) {
  }
}

bool is_within(const void* begin, size_t size, const std::vector<std::byte>& message) {
  const auto* first = static_cast<const std::byte*>(begin);
  return size == 0 || (first >= message.data() && size <= message.size() &&
                       static_cast<size_t>(first - message.data()) <= message.size() - size);
}

void check_dispatch(const std::vector<std::byte>& message) {
  const kt::DispatchMessage m = kt::decode_dispatch(message, 8);
  require(m.ask <= kt::Ask::leave, "an unknown ask is refused");
  for (const kt::Routing* r : {&m.now, &m.late}) {
    require(is_within(r->ids.data(), r->ids.size_bytes(), message), "ids are within the message");
    require(is_within(r->weights.data(), r->weights.size_bytes(), message), "weights are within the message");
    require(std::all_of(r->ids.begin(), r->ids.end(), [](int32_t id) { return id >= -1 && id < 8; }), "ids exist");
  }
  require(is_within(m.experts.data(), m.experts.size_bytes(), message), "experts are within the message");
  const size_t values = static_cast<size_t>(m.now.rows) * static_cast<size_t>(m.hidden);
  require(is_within(m.rows, values * sizeof(kt::bf16), message), "rows are within the message");
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
  try_decode([&] { check_dispatch(message); });
  return 0;
}
