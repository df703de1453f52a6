#include "runtime/step/orders.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/error.h"

namespace kt {
namespace {

struct ReportHeader {
  uint64_t counts = 0, ids = 0;
  int64_t pairs = 0, hot_pairs = 0, late_pairs = 0;
  double weight = 0.0, late_weight = 0.0;
  int64_t streamed_bytes = 0, moved_bytes = 0, arrived = 0;
};

}  // namespace

std::vector<std::byte> encode(const StepReport& r) {
  const ReportHeader header{r.counts.size(), r.ids.size(),  r.pairs,          r.hot_pairs,   r.late_pairs,
                            r.weight,        r.late_weight, r.streamed_bytes, r.moved_bytes, r.arrived};
  std::vector<std::byte> bytes(sizeof header + (r.counts.size() + r.ids.size()) * sizeof(int32_t));
  std::memcpy(bytes.data(), &header, sizeof header);
  std::byte* at = bytes.data() + sizeof header;
  if (!r.counts.empty()) std::memcpy(at, r.counts.data(), r.counts.size() * sizeof(int32_t));
  at += r.counts.size() * sizeof(int32_t);
  if (!r.ids.empty()) std::memcpy(at, r.ids.data(), r.ids.size() * sizeof(int32_t));
  return bytes;
}

StepReport decode_step_report(std::span<const std::byte> bytes) {
  ReportHeader h;
  if (bytes.size() >= sizeof h) std::memcpy(&h, bytes.data(), sizeof h);
  const size_t values = (bytes.size() - std::min(bytes.size(), sizeof h)) / sizeof(int32_t);
  if (bytes.size() < sizeof h || h.counts > values || h.ids != values - h.counts ||
      bytes.size() != sizeof h + values * sizeof(int32_t))
    fail(kExitPeerLost, "step report: {} bytes do not add up", bytes.size());
  StepReport r{.pairs = h.pairs,
               .hot_pairs = h.hot_pairs,
               .late_pairs = h.late_pairs,
               .weight = h.weight,
               .late_weight = h.late_weight,
               .streamed_bytes = h.streamed_bytes,
               .moved_bytes = h.moved_bytes,
               .arrived = h.arrived != 0};
  const std::byte* at = bytes.data() + sizeof h;
  r.counts.resize(h.counts);
  r.ids.resize(h.ids);
  if (h.counts) std::memcpy(r.counts.data(), at, h.counts * sizeof(int32_t));
  if (h.ids) std::memcpy(r.ids.data(), at + h.counts * sizeof(int32_t), h.ids * sizeof(int32_t));
  return r;
}

}  // namespace kt
