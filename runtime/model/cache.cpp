#include "runtime/model/cache.h"

#include <algorithm>
#include <cstring>

namespace kt {
namespace {

// Elements of one page of one layer.
int64_t page_elements(const ModelConfig& c, const TrunkShare& share) {
  const MlaSpec& m = c.mla;
  if (m.heads) return latent_elements(m) + (m.indexer ? static_cast<int64_t>(kKvBlock) * m.indexer->head_dim : 0);
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

std::vector<int64_t> cache_places(const StepPlan& plan) {
  std::vector<int64_t> places;
  places.reserve(plan.tokens.size());
  for (size_t s = 0; s < plan.slices.size(); ++s)
    for (int i = 0; i < plan.slices[s].count; ++i) {
      const int position = plan.slices[s].first + i;
      const int64_t page = plan.blocks[plan.block_begin[s] + position / kKvBlock];
      places.push_back(page * kKvBlock + position % kKvBlock);
    }
  return places;
}

StateCache::Bytes StateCache::bytes(const ModelConfig& config, const TrunkShare& share, CacheLimits limits) {
  const Sizes s = sizes_of(config, share, limits);
  const size_t slots = static_cast<size_t>(limits.slots + limits.snapshots);
  return {.pages = s.attention_layers * s.page_elements * sizeof(bf16),
          .states = s.delta_layers * slots * (s.history + s.state) * sizeof(float)};
}

StateCache::StateCache(const ModelConfig& config, const TrunkShare& share, CacheLimits limits, ThreadPool& pool,
                       int numa_node)
    : head_dim_(config.attention.head_dim),
      slots_(limits.slots),
      snapshots_(limits.snapshots),
      page_stride_(page_elements(config, share)) {
  const Sizes s = sizes_of(config, share, limits);
  for (LayerSpec l : config.layers)
    index_.push_back(l.mixer == Mixer::delta_net ? delta_layers_++ : attention_layers_++);
  layer_page_elements_ = s.page_elements;
  history_ = s.history;
  state_ = s.state;
  const Bytes b = bytes(config, share, limits);
  pages_ = Buffer(b.pages, numa_node, pool);
  states_ = Buffer(b.states, numa_node, pool);
}

bf16* StateCache::pages(int layer, int kv_head) const {
  return pages_.as<bf16>() + index_[layer] * layer_page_elements_ + kv_head * kv_page_elements(head_dim_);
}
float* StateCache::conv_history(int layer, int slot) const { return slot_state(index_[layer], slot); }
float* StateCache::delta_state(int layer, int slot) const { return conv_history(layer, slot) + history_; }

float* StateCache::slot_state(int delta_layer, int slot) const {
  return states_.as<float>() + (static_cast<size_t>(delta_layer) * (slots_ + snapshots_) + slot) * (history_ + state_);
}

void StateCache::clear_slot(int slot) const {
  for (int i = 0; i < delta_layers_; ++i) std::memset(slot_state(i, slot), 0, (history_ + state_) * sizeof(float));
}

void StateCache::fill_arbitrary(ThreadPool& pool) const {
  auto* words = pages_.as<uint64_t>();
  const int64_t count = static_cast<int64_t>(pages_.size() / sizeof(uint64_t));
  constexpr int64_t kWords = 1 << 16;
  pool.run(ceil_div(count, kWords), [&](int64_t part) {
    uint64_t state = static_cast<uint64_t>(part) * 0x9e3779b97f4a7c15u + 1;  // Marsaglia, "Xorshift RNGs", 2003
    for (int64_t i = part * kWords; i < std::min(count, (part + 1) * kWords); ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      words[i] = (state & 0x80ff80ff80ff80ffu) | 0x3f003f003f003f00u;  // bf16 of +-0.5 to +-2
    }
  });
}

void StateCache::copy_slot(int from, int to) const {
  for (int i = 0; i < delta_layers_; ++i)
    std::memcpy(slot_state(i, to), slot_state(i, from), (history_ + state_) * sizeof(float));
}

}  // namespace kt
