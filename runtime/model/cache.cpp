#include "runtime/model/cache.h"

#include <algorithm>

#include "runtime/model/step_memory.h"

namespace kt {
namespace {

// Elements of one page of one layer.
int64_t page_elements(const ModelConfig& c, const TrunkShare& share) {
  const LatentHeads m = latent_heads(c, share);
  if (m.heads) return m.latent_elements() + static_cast<int64_t>(kKvBlock) * m.index_dim;
  return share.kv_heads.size() * kv_page_elements(c.attention.head_dim);
}

struct Sizes {
  size_t page_elements, history, state;  // per attention layer and per (delta layer, slot)
  int attention_layers = 0, delta_layers = 0;
};
Sizes sizes_of(const ModelConfig& c, const TrunkShare& share, CacheLimits limits) {
  const DeltaSpec& d = c.delta;
  Sizes s{};
  for (LayerSpec l : c.layers) ++(l.mixer == Mixer::delta_net ? s.delta_layers : s.attention_layers);
  s.page_elements = static_cast<size_t>(limits.blocks) * page_elements(c, share);
  if (s.delta_layers) {
    s.history = static_cast<size_t>(d.conv_kernel - 1) *
                (2 * share.key_heads.size() * d.key_dim + share.value_heads.size() * d.value_dim);
    s.state = static_cast<size_t>(share.value_heads.size()) * d.key_dim * d.value_dim;
  }
  return s;
}

}  // namespace

StateCache::Bytes StateCache::bytes(const ModelConfig& config, const TrunkShare& share, CacheLimits limits) {
  const Sizes s = sizes_of(config, share, limits);
  const size_t slots = static_cast<size_t>(limits.slots + limits.snapshots);
  return {.pages = s.attention_layers * s.page_elements * sizeof(bf16),
          .states = s.delta_layers * slots * (s.history + s.state) * sizeof(float)};
}

StateCache::StateCache(const ModelConfig& config, const TrunkShare& share, CacheLimits limits, Device& device)
    : device_(device), slots_(limits.slots), snapshots_(limits.snapshots), page_stride_(page_elements(config, share)) {
  const Sizes s = sizes_of(config, share, limits);
  for (LayerSpec l : config.layers)
    index_.push_back(l.mixer == Mixer::delta_net ? delta_layers_++ : attention_layers_++);
  layer_page_elements_ = s.page_elements;
  history_ = s.history;
  state_ = s.state;
  const Bytes b = bytes(config, share, limits);
  pages_ = device.take(b.pages);
  states_ = device.take(b.states);
}

Pages StateCache::pages(int layer) const {
  return {pages_.as<bf16>() + index_[layer] * layer_page_elements_, page_stride_};
}
Slots StateCache::conv_history(int layer) const {
  return {slot_state(index_[layer], 0), static_cast<int64_t>(history_ + state_)};
}
Slots StateCache::delta_state(int layer) const {
  const Slots history = conv_history(layer);
  return {history.at + history_, history.stride};
}

float* StateCache::slot_state(int delta_layer, int slot) const {
  return states_.as<float>() + (static_cast<size_t>(delta_layer) * (slots_ + snapshots_) + slot) * (history_ + state_);
}

void StateCache::clear_slot(int slot) const {
  for (int i = 0; i < delta_layers_; ++i) device_.clear(slot_state(i, slot), slot_bytes());
}

void StateCache::copy_slot(int from, int to) const {
  for (int i = 0; i < delta_layers_; ++i) device_.copy(slot_state(i, to), slot_state(i, from), slot_bytes());
}

void StateCache::fill_arbitrary() const {
  std::vector<uint64_t> words(1 << 16);
  uint64_t state = 0x9e3779b97f4a7c15u;  // Marsaglia, "Xorshift RNGs", 2003
  for (size_t at = 0; at < pages_.size(); at += words.size() * sizeof(uint64_t)) {
    for (uint64_t& word : words) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      word = (state & 0x80ff80ff80ff80ffu) | 0x3f003f003f003f00u;  // bf16 of +-0.5 to +-2
    }
    device_.write(pages_.bytes() + at, words.data(), std::min(words.size() * sizeof(uint64_t), pages_.size() - at));
    device_.wait();  // the words are used again
  }
}

}  // namespace kt
