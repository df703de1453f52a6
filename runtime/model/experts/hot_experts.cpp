#include "runtime/model/experts/hot_experts.h"

#include <numeric>

#include "runtime/base/error.h"

namespace kt {

HotExperts::HotExperts(const ModelConfig& config, Format format, Range columns, int64_t slots, Device& device)
    : shape_(expert_shape(config, format, columns.size())),
      columns_(columns),
      slots_(slots),
      per_layer_(config.moe.experts),
      moe_index_(moe_indices(config)),
      free_(static_cast<size_t>(slots)),
      storage_(device.take(bytes(config, format, columns.size(), slots))) {
  const size_t all = static_cast<size_t>(moe_layer_count(config)) * per_layer_;
  experts_.resize(all);
  slot_of_.assign(all, -1);
  std::iota(free_.rbegin(), free_.rend(), 0);
}

size_t HotExperts::bytes(const ModelConfig& config, Format format, int columns, int64_t slots) {
  return static_cast<size_t>(slots) * expert_bytes(config, format, columns);
}

int64_t HotExperts::claim() {
  if (free_.empty()) fail(kExitPeerLost, "hot experts: none of {} slots is free", slots_);
  const int64_t slot = free_.back();
  free_.pop_back();
  return slot;
}

ExpertBytes HotExperts::bytes_of(int64_t slot) const {
  if (!columns_.size()) return {};
  std::byte* gate_up = storage_.bytes() + static_cast<size_t>(slot) * shape_.bytes();
  return {gate_up, gate_up + shape_.gate_up.bytes()};
}

void HotExperts::hold(int layer, int expert, int64_t slot) {
  if (holds(layer, expert)) fail(kExitPeerLost, "hot experts: expert {} of layer {} is hot already", expert, layer);
  slot_of_[index(layer, expert)] = slot;
  if (!columns_.size()) return;
  FfnWeights& w = experts_[index(layer, expert)];
  w = {.gate_up = shape_.gate_up, .down = shape_.down, .columns = columns_.size()};
  w.gate_up.data = bytes_of(slot).gate_up;
  w.down.data = bytes_of(slot).down;
}

ExpertBytes HotExperts::take(int layer, int expert) {
  const int64_t slot = claim();
  hold(layer, expert, slot);
  return bytes_of(slot);
}

void HotExperts::give_up(int layer, int expert) {
  if (!holds(layer, expert)) fail(kExitPeerLost, "hot experts: expert {} of layer {} is not hot", expert, layer);
  free_.push_back(slot_of_[index(layer, expert)]);
  slot_of_[index(layer, expert)] = -1;
  experts_[index(layer, expert)] = {};
}

}  // namespace kt
