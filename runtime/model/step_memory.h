#pragma once

#include <optional>

#include "kernels/device.h"
#include "runtime/arch/config.h"
#include "runtime/weights/shares.h"

namespace kt {

struct TrunkLimits {
  const DeviceKind* device = &cpu_kind();
  int max_rows = 0;        // tokens of a step
  int max_logit_rows = 0;  // logits of a step
  int context = 0;         // tokens of the longest sequence

  // Routed experts, besides those of the rank's own bank.
  Format expert_format = Format::BF16;  // of the banks
  Format hot_format = Format::BF16;     // of hot experts: the banks', or the checkpoint's own
  int64_t hot_experts = 0;              // of all layers together
  int64_t spare_experts = 0;            // room for those that come beside steps
  bool layerwise = false;               // steps may bring the cold experts here
  int max_deferred = 0;                 // of a token's experts, those of least weight, added one MoE layer later

  std::optional<Format> trunk_method;  // what the trunk's matrices are quantised to; nothing: as stored
  bool tensor_cores = false;           // of StepShape

  bool shares_sums = false;           // sums and logits lie where other ranks see them, apart from a step's memory
  bool device_sums = false;           // devices add: sums lie in their memory
  WireType wire = WireType::float64;  // of expert sums between machines
};

// What a rank's heads are to a device.
GroupedHeads grouped_heads(const ModelConfig& config, const TrunkShare& share);
DeltaHeads delta_heads(const ModelConfig& config, const TrunkShare& share);
LatentHeads latent_heads(const ModelConfig& config, const TrunkShare& share);
// The largest step of a bank, and of a trunk rank with such a bank in its device's memory, or none.
StepShape bank_shape(const ModelConfig& config, const ExpertShare& bank, Format format, int max_rows);
StepShape step_shape(const ModelConfig& config, const TrunkShare& share, const TrunkLimits& limits,
                     const ExpertShare& bank);

// Latent attention takes a step's rows in blocks of this size, so that what it keeps per row and head stays small: at
// 128 heads a row of queries in latent form is 144 KiB.
// Rows in expanded form are taken in blocks of kMaxExpandedRows, head by head: the more, the less their keys' expansion
// weighs.
inline constexpr int kMlaRows = 256;

// Of a block of rows.
struct LatentMemory {
  LatentRows down;     // f32 projections of the normed rows
  Mat<bf16> q_latent;  // normed latent of the queries; of larger blocks too
  Mat<float> q;        // (heads, head_dim)
  Mat<bf16> query;     // (heads, cached_dim): in latent form, then the rotated part
  Mat<bf16> sums;      // (heads, kv_rank): weighted sums of latents
  Mat<bf16> out;       // (heads, value_dim); of larger blocks too
  Mat<float> index_q;  // (index heads, index dim)
  Mat<bf16> index_q16;
  Mat<int32_t> picked;  // (top_k): positions that the indexer picked
};

// A step's memory on the device, row by row. Inputs of products are padded to tiles, outputs to panels.
struct StepMemory {
  Mat<float> x;            // residual stream
  Mat<bf16> h;             // normed rows
  Mat<double> y;           // sums of the current sub-layer
  Mat<float> fused;        // a mixer's projections
  Mat<float> mixed;        // delta net: outputs before their norm
  Mat<bf16> gated;         // outputs of the mixer before its last projection
  Mat<float> gates, conv;  // delta net: [b | a] turned into [beta | alpha]; convolved queries, keys, values
  Mat<bf16> activations;   // SwiGLU of dense and shared feed-forwards
  Mat<float> router;       // its logits
  Mat<float> shared_gate;  // one a row
  Mat<float> logits;       // (logit rows, this rank's vocabulary)
  LatentMemory latent;
};
// Of that what other trunk ranks add to, unless devices do, and rank 0 reads; sums first.
struct SumMemory {
  Mat<double> y;
  Mat<float> logits;
};
SumMemory lay_out_sums(Layout& layout, const ModelConfig& config, const TrunkShare& share, const TrunkLimits& limits);
// Without what is shared.
StepMemory lay_out_step(Layout& layout, const ModelConfig& config, const TrunkShare& share, const TrunkLimits& limits);

// What make_trunk takes, the device's own memory included, without what experts need, and messages.
size_t step_bytes(const ModelConfig& config, const TrunkShare& share, const TrunkLimits& limits,
                  const ExpertShare& bank, int threads);

}  // namespace kt
