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

// Where the rows of a step go in the cache: page * kKvBlock + offset.
std::vector<int64_t> cache_places(const StepPlan& plan);

// What a trunk rank remembers of the running sequences: pages of keys and values for its key-value heads in attention
// layers, and per slot the convolution's last inputs and the recurrent state of its heads in delta-net layers.
// Snapshots are further slots that no sequence runs in.
class StateCache {
 public:
  static size_t bytes(const ModelConfig& config, const TrunkShare& share, CacheLimits limits);
  StateCache(const ModelConfig& config, const TrunkShare& share, CacheLimits limits, ThreadPool& pool, int numa_node);

  // Pages of one key-value head of this rank; page b is at + b * page_stride().
  bf16* pages(int layer, int kv_head) const;
  int64_t page_stride() const { return kv_heads_ * kv_page_elements(head_dim_); }
  // (taps - 1, channels) and (value_heads, key_dim, value_dim) of a slot.
  float* conv_history(int layer, int slot) const;
  float* delta_state(int layer, int slot) const;
  int snapshots() const { return snapshots_; }
  int snapshot_slot(int snapshot) const { return slots_ + snapshot; }
  void clear_slot(int slot) const;
  void copy_slot(int from, int to) const;

 private:
  float* slot_state(int delta_layer, int slot) const;

  std::vector<int> index_;  // layer -> index among the layers with its mixer
  int kv_heads_, head_dim_, slots_, snapshots_;
  int attention_layers_ = 0, delta_layers_ = 0;
  size_t layer_page_elements_, history_, state_;  // per attention layer; floats per slot and delta layer
  Buffer pages_, states_;
};

}  // namespace kt
