#include "runtime/model/hot_experts.h"

#include <numeric>

#include "runtime/base/error.h"

namespace kt {

HotExperts::HotExperts(const ModelConfig& config, Format format, Range columns, int64_t slots, ThreadPool& pool,
                       int numa_node)
    : shape_(expert_shape(config, format, columns.size())),
      columns_(columns),
      slots_(slots),
      per_layer_(config.moe.experts),
      moe_index_(moe_indices(config)),
      free_(static_cast<size_t>(slots)),
      storage_(bytes(config, format, columns.size(), slots), numa_node, pool) {
  const size_t all = static_cast<size_t>(moe_layer_count(config)) * per_layer_;
  experts_.resize(all);
  slot_of_.assign(all, -1);
  std::iota(free_.rbegin(), free_.rend(), 0);
}

size_t HotExperts::bytes(const ModelConfig& config, Format format, int columns, int64_t slots) {
  return static_cast<size_t>(slots) * expert_bytes(config, format, columns);
}

ExpertBytes HotExperts::take(int layer, int expert) {
  if (free_.empty() || holds(layer, expert))
    fail(kExitPeerLost, "hot experts: no slot for expert {} of layer {}: {} of {} are free", expert, layer,
         free_.size(), slots_);
  const int64_t slot = free_.back();
  free_.pop_back();
  slot_of_[index(layer, expert)] = slot;
  if (!columns_.size()) return {};
  std::byte* gate_up = storage_.bytes() + static_cast<size_t>(slot) * shape_.bytes();
  std::byte* down = gate_up + shape_.gate_up.bytes();
  FfnWeights& w = experts_[index(layer, expert)];
  w = {.gate_up = shape_.gate_up, .down = shape_.down, .columns = columns_.size()};
  w.gate_up.data = gate_up;
  w.down.data = down;
  return {gate_up, down};
}

void HotExperts::give_up(int layer, int expert) {
  if (!holds(layer, expert)) fail(kExitPeerLost, "hot experts: expert {} of layer {} is not hot", expert, layer);
  free_.push_back(slot_of_[index(layer, expert)]);
  slot_of_[index(layer, expert)] = -1;
  experts_[index(layer, expert)] = {};
}

}  // namespace kt
