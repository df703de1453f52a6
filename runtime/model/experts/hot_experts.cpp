#include "runtime/model/experts/hot_experts.h"

#include <algorithm>
#include <numeric>

#include "runtime/base/error.h"

namespace kt {

HotExperts::HotExperts(const ModelConfig& config, Format format, Range columns, int64_t slots, Device& device,
                       int64_t staged)
    : device_(device),
      shape_(expert_shape(config, format, columns.size())),
      columns_(columns),
      slots_(slots),
      per_layer_(config.moe.experts),
      moe_index_(moe_indices(config)),
      free_(static_cast<size_t>(slots)),
      staged_(static_cast<size_t>(staged), -1),
      storage_(device.take(bytes(config, format, columns.size(), slots))),
      staging_(staged ? device.take_host(bytes(config, format, columns.size(), staged)) : Buffer()) {
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

ExpertBytes HotExperts::bytes_at(std::byte* memory, int64_t i) const {
  if (!columns_.size()) return {};
  std::byte* gate_up = memory + static_cast<size_t>(i) * shape_.bytes();
  return {gate_up, gate_up + shape_.gate_up.bytes()};
}

ExpertBytes HotExperts::place(int64_t slot) {
  if (staged_.empty()) return bytes_at(storage_.bytes(), slot);
  const auto free = std::find(staged_.begin(), staged_.end(), -1);
  if (free == staged_.end()) fail(kExitPeerLost, "hot experts: more than {} are on their way", staged_.size());
  *free = slot;
  return bytes_at(staging_.bytes(), free - staged_.begin());
}

void HotExperts::arrive(int64_t slot) {
  const auto staged = std::find(staged_.begin(), staged_.end(), slot);
  if (staged == staged_.end()) return;
  *staged = -1;
  if (const ExpertBytes to = bytes_at(storage_.bytes(), slot); to.gate_up)
    device_.write(to.gate_up, bytes_at(staging_.bytes(), staged - staged_.begin()).gate_up, shape_.bytes());
}

void HotExperts::hold(int layer, int expert, int64_t slot) {
  if (holds(layer, expert)) fail(kExitPeerLost, "hot experts: expert {} of layer {} is hot already", expert, layer);
  slot_of_[index(layer, expert)] = slot;
  if (!columns_.size()) return;
  FfnWeights& w = experts_[index(layer, expert)];
  w = {.gate_up = shape_.gate_up, .down = shape_.down, .columns = columns_.size()};
  const ExpertBytes at = bytes_at(storage_.bytes(), slot);
  w.gate_up.data = at.gate_up;
  w.down.data = at.down;
}

ExpertBytes HotExperts::take(int layer, int expert) {
  const int64_t slot = claim();
  hold(layer, expert, slot);
  return place(slot);
}

void HotExperts::give_up(int layer, int expert) {
  if (!holds(layer, expert)) fail(kExitPeerLost, "hot experts: expert {} of layer {} is not hot", expert, layer);
  free_.push_back(slot_of_[index(layer, expert)]);
  slot_of_[index(layer, expert)] = -1;
  experts_[index(layer, expert)] = {};
}

}  // namespace kt
