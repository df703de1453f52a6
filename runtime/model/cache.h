#pragma once

#include <vector>

#include "kernels/device.h"
#include "runtime/step/step.h"
#include "runtime/weights/shares.h"

namespace kt {

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
  StateCache(const ModelConfig& config, const TrunkShare& share, CacheLimits limits, Device& device);

  // Of this rank's key-value heads, or of the latents.
  Pages pages(int layer) const;
  // (taps - 1, channels) and (value_heads, key_dim, value_dim) of each slot.
  Slots conv_history(int layer) const;
  Slots delta_state(int layer) const;
  int snapshots() const { return snapshots_; }
  int snapshot_slot(int snapshot) const { return slots_ + snapshot; }
  void clear_slot(int slot) const;
  void copy_slot(int from, int to) const;
  // Small arbitrary numbers in all pages, so that a benchmark has long contexts that nobody computed.
  void fill_arbitrary() const;

 private:
  float* slot_state(int delta_layer, int slot) const;
  size_t slot_bytes() const { return (history_ + state_) * sizeof(float); }

  Device& device_;
  std::vector<int> index_;  // layer -> index among the layers with its mixer
  int slots_, snapshots_;
  int64_t page_stride_;
  int attention_layers_ = 0, delta_layers_ = 0;
  size_t layer_page_elements_, history_, state_;  // per attention layer; floats per slot and delta layer
  Buffer pages_, states_;
};

}  // namespace kt
