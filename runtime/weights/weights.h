#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "runtime/arch/arch.h"
#include "runtime/weights/mla_weights.h"
#include "runtime/weights/packing.h"
#include "runtime/weights/shares.h"

namespace kt {

// Rows of the fused input projections, in this order, of this rank's heads:
//   attention   queries | output gates (if gated) | keys | values
//   delta net   queries | keys | values | z        and, in `ba`:  b | a
struct AttentionWeights {
  PackedMatrix qkv, out;
  DeviceFloats bias, q_norm, k_norm;  // empty when the model has none
};
struct DeltaWeights {
  PackedMatrix qkvz, ba, out;
  DeviceFloats conv;     // (taps, channels), this rank's channels
  DeviceFloats decay;    // -exp(A_log) per value head
  DeviceFloats dt_bias;  // per value head
  DeviceFloats norm;     // (value_dim)
};
struct LayerWeights {
  DeviceFloats mixer_norm, ffn_norm;  // as multiplied: 1 + w where the model stores w
  AttentionWeights attention;
  MlaWeights mla;
  DeltaWeights delta;
  FfnWeights dense, shared;
  PackedMatrix router;       // rows: experts, then the shared expert's gate if there is one
  DeviceFloats router_bias;  // (experts), of sigmoid routing
};

// What a trunk rank holds. The embedding stays in the checkpoint: a step reads a row per token.
struct TrunkWeights {
  std::vector<LayerWeights> layers;
  DeviceFloats final_norm;
  PackedMatrix head;
  std::string embedding;
  Buffer storage, absorbed;
};

// A trunk rank's part: bytes in memory, packed; bytes in the checkpoint's files, those of the embedding and of tensors
// that all ranks share included; weights that a token is multiplied with. Checks every tensor's shape and type, so that
// a wrong one is refused before any rank loads, but takes no memory. `method`: what matrices are quantised to (see
// Packing); nothing: as stored. Throws Error(kExitModel) naming the tensor.
struct TrunkSize {
  size_t resident = 0, stored = 0, elements = 0;
};
TrunkSize trunk_size(const Checkpoint& checkpoint, const Arch& arch, const ModelConfig& config, const TrunkShare& share,
                     std::optional<Format> method = {});

// Loads this rank's part; throws Error(kExitModel) naming the tensor. The result may be moved: views point into
// storage.
TrunkWeights load_trunk(const Checkpoint& checkpoint, const Arch& arch, const ModelConfig& config,
                        const TrunkShare& share, Device& device, std::optional<Format> method = {});

}  // namespace kt
