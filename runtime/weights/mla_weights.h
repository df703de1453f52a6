#pragma once

#include <span>
#include <string>
#include <vector>

#include "runtime/weights/packing.h"
#include "runtime/weights/shares.h"

namespace kt {

// Of one layer. The latent projections and the indexer are the same on every trunk rank; heads are this rank's.
struct MlaWeights {
  PackedMatrix q_a, kv_a;        // (q_rank, hidden), (kv_rank + rope_dim, hidden)
  PackedMatrix q_b, out;         // (heads * head_dim, q_rank), (hidden, heads * value_dim)
  DeviceFloats q_norm, kv_norm;  // (q_rank), (kv_rank)
  // kv_b_proj per head, in absorbed form: the query's part through the transposed key projection, (kv_rank, nope_dim);
  // and the value projection, (value_dim, kv_rank). bf16 whatever the checkpoint has: exact for BF16 and for FP8 with
  // power-of-two scales, else rounded once.
  std::vector<PackedMatrix> key_up, value_up;

  PackedMatrix index_q, index_k, index_weights;  // (heads * head_dim, q_rank), (head_dim, hidden), (heads, hidden)
  DeviceFloats index_norm, index_bias;           // (head_dim)
};

// Everything but the absorbed matrices. `prefix`: "model.layers.7.self_attn.".
void add_mla(MlaWeights& w, const Checkpoint& checkpoint, const std::string& prefix, const ModelConfig& config,
             const TrunkShare& share, Packing& packing);

// The absorbed matrices of all layers, packed into the buffer that is returned. Throws Error(kExitModel).
struct AbsorbedLayer {
  MlaWeights* weights;
  std::string prefix;
};
Buffer load_absorbed(std::span<const AbsorbedLayer> layers, const Checkpoint& checkpoint, const ModelConfig& config,
                     const TrunkShare& share, Device& device);
size_t absorbed_bytes(const MlaSpec& mla, const TrunkShare& share);  // of one layer

}  // namespace kt
