#pragma once

#include <vector>

#include "kernels/buffer.h"
#include "kernels/ops.h"
#include "runtime/model/shares.h"
#include "runtime/model/step.h"

namespace kt {

struct CacheLimits {
  int blocks = 0;     // pages of kKvBlock tokens, shared by all sequences
  int slots = 0;      // running sequences
  int snapshots = 0;  // kept recurrent states; none are made for models without
};

// One page of latent attention, bf16: (kKvBlock, cached_dim) rows of latent and rotated key part; then, with an
// indexer, its kKvBlock keys as a packed matrix (n = kKvBlock, k = head_dim), ready to be multiplied with.
inline int64_t latent_elements(const MlaSpec& m) { return static_cast<int64_t>(kKvBlock) * m.cached_dim(); }

// Where the rows of a step go in the cache: page * kKvBlock + offset.
std::vector<int64_t> cache_places(const StepPlan& plan);

// What a trunk rank remembers of the running sequences: pages of keys and values for its key-value heads in attention
// layers, pages of latents in layers of latent attention, and per slot the convolution's last inputs and the recurrent
// state of its heads in delta-net layers.
// Snapshots are further slots that no sequence runs in.
class StateCache {
 public:
  struct Bytes {
    size_t pages = 0, states = 0;
  };
  static Bytes bytes(const ModelConfig& config, const TrunkShare& share, CacheLimits limits);
  StateCache(const ModelConfig& config, const TrunkShare& share, CacheLimits limits, ThreadPool& pool, int numa_node);

  // Pages of one key-value head of this rank, or of the latents; page b is at + b * page_stride().
  bf16* pages(int layer, int kv_head = 0) const;
  int64_t page_stride() const { return page_stride_; }
  // (taps - 1, channels) and (value_heads, key_dim, value_dim) of a slot.
  float* conv_history(int layer, int slot) const;
  float* delta_state(int layer, int slot) const;
  int snapshots() const { return snapshots_; }
  int snapshot_slot(int snapshot) const { return slots_ + snapshot; }
  void clear_slot(int slot) const;
  void copy_slot(int from, int to) const;
  // Small arbitrary numbers in all pages, so that a benchmark has long contexts that nobody computed.
  void fill_arbitrary(ThreadPool& pool) const;

 private:
  float* slot_state(int delta_layer, int slot) const;

  std::vector<int> index_;  // layer -> index among the layers with its mixer
  int head_dim_, slots_, snapshots_;
  int64_t page_stride_;
  int attention_layers_ = 0, delta_layers_ = 0;
  size_t layer_page_elements_, history_, state_;  // per attention layer; floats per slot and delta layer
  Buffer pages_, states_;
};

}  // namespace kt
