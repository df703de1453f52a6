#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/context.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/comm/topology.h"
#include "runtime/comm/transport.h"
#include "runtime/model/bank.h"
#include "runtime/model/cache.h"
#include "runtime/model/expert_fetch.h"
#include "runtime/model/expert_groups.h"
#include "runtime/model/expert_mover.h"
#include "runtime/model/experts.h"
#include "runtime/model/hot_experts.h"
#include "runtime/model/mla.h"
#include "runtime/model/remote_experts.h"
#include "runtime/model/spans.h"
#include "runtime/model/step.h"
#include "runtime/model/step_clock.h"
#include "runtime/model/weights.h"

namespace kt {

struct TrunkLimits {
  int max_rows = 0;        // tokens of a step
  int max_logit_rows = 0;  // logits of a step

  // Routed experts, besides those of the rank's own bank.
  Format expert_format = Format::BF16;  // of the banks
  Format hot_format = Format::BF16;     // of hot experts: the banks', or the checkpoint's own
  int64_t hot_experts = 0;              // of all layers together
  int64_t spare_experts = 0;            // room for those that come beside steps
  bool layerwise = false;               // steps may bring the cold experts here
  int max_deferred = 0;                 // of a token's experts, those of least weight, added one MoE layer later
};
// Bytes of a step's memory: what make_trunk takes and what steps grow to with sequences of up to `context` tokens,
// without local experts and messages.
size_t step_bytes(const ModelConfig& config, const TrunkShare& share, TrunkLimits limits, int threads, int context);
size_t attention_room_bytes(const AttentionSpec& attention, int threads, int context);  // of that, mix_attention's

// Elements from one row to the next of a step's buffers; those of inputs are padded to tiles, of outputs to panels.
struct StepStrides {
  int64_t h = 0, y = 0;          // hidden
  int64_t fused = 0, mixed = 0;  // a mixer's projections, and its output before the last one
  int64_t gates = 0, conv = 0;   // delta net
  int64_t activation = 0;        // dense and shared feed-forwards
  int64_t router = 0, logits = 0;
};
StepStrides step_strides(const ModelConfig& config, const TrunkShare& share);

// A trunk rank: everything but the routed experts that live elsewhere. The functions of forward.cpp, attention.cpp,
// mla.cpp, delta_net.cpp and moe.cpp take it as their first argument; there are no methods.
struct Trunk {
  Transport& transport;
  const Topology& topology;
  const KernelContext& kernels;
  const Checkpoint& checkpoint;  // for the embedding
  const ModelConfig& config;
  const TrunkShare& share;
  const TrunkWeights& weights;
  const ExpertBank*
      bank;  // experts that this rank computes itself: all in a world of one, a shard on a rank that is both
  StateCache& cache;

  // Memory of a step, for max_rows rows; made once by make_trunk.
  TrunkLimits limits;
  StepStrides stride;
  Buffer x, h, y;              // f32 residual stream; bf16 normed rows; f64 sums of the current sub-layer
  Buffer fused, mixed, gated;  // f32 projections; f32 and bf16 outputs of the mixer, before its last projection
  Buffer gates, conv;          // f32 delta net: [b | a] turned into [beta | alpha]; convolved q, k, v
  Buffer activations;          // bf16 SwiGLU of dense and shared feed-forwards
  Buffer router;               // f32 router logits
  Buffer logits;               // f32 (rows, this rank's vocabulary)
  std::vector<float> rope_cos, rope_sin;  // (rows, dims / 2) of this step
  StepReport report;                      // of this step
  std::vector<int32_t> expert_ids;
  std::vector<float> expert_weights, shared_gate;
  SpanRoom spans;  // of attention
  std::unique_ptr<MlaRoom> mla;
  std::unique_ptr<ExpertRunner> local_experts;
  std::vector<std::byte> outbox, inbox;

  std::vector<ExpertShare> expert_shares;  // of topology.experts
  std::vector<RemoteGroup> remote;         // expert ranks that are no trunk ranks
  ExpertGroups groups;                     // of all expert ranks
  int last_moe_layer = -1;
  bool layerwise = false;                    // this step
  std::unique_ptr<HotExperts> hot;           // null when there are none
  std::unique_ptr<ExpertMover> mover;        // null when none come beside steps
  const ExpertSource* hot_source = nullptr;  // the checkpoint that they are read from; null: the banks
  std::unique_ptr<HotExperts> stream[2];     // of layerwise steps: one batch is computed while the next one comes
  FetchRoom fetch_room;                      // of those
  std::unique_ptr<ExpertRunner> hot_runner;
  std::vector<int32_t> hot_ids, cold_ids, late_ids, group_of, group_ids, group_late_ids;  // of a layer's routing
  Buffer late;             // f64 sums of this rank's own deferred experts, like y
  bool late_rows = false;  // it has some, of the MoE layer before

  StepClock clock;

  Rows normed(int rows) const { return {.data = h.as<bf16>(), .stride = stride.h, .count = rows}; }
};

// `copies` of experts, by group of expert ranks; see ExpertGroups.
Trunk make_trunk(Transport& transport, const Topology& topology, const KernelContext& kernels,
                 const Checkpoint& checkpoint, const ModelConfig& config, const TrunkShare& share,
                 const TrunkWeights& weights, const ExpertBank* bank, StateCache& cache, TrunkLimits limits,
                 int numa_node, std::span<const ExpertSets> copies = {});

// One forward pass. Returns this rank's logits: (plan.logit_rows(), share.vocab.size()) with t.stride.logits.
const float* forward(Trunk& t, const StepPlan& plan);

// Parts of a layer, in the order of a forward pass. Each reads the normed rows t.h and adds its share to t.y.
void mix_attention(Trunk& t, int layer, const StepPlan& plan);
void mix_mla(Trunk& t, int layer, const StepPlan& plan);
void mix_delta_net(Trunk& t, int layer, const StepPlan& plan);
void dense_ffn(Trunk& t, int layer, int rows);
void moe(Trunk& t, int layer, int rows);

// What moe needs between layers.
void make_expert_room(Trunk& t, std::span<const ExpertSets> copies, int numa_node);
struct ExpertRoomBytes {
  size_t hot = 0;      // their weights
  size_t stream = 0;   // weights on their way in layerwise steps
  size_t scratch = 0;  // ids, activations, deferred sums
};
ExpertRoomBytes expert_room_bytes(const ModelConfig& config, const TrunkShare& share, TrunkLimits limits,
                                  bool has_bank);
}  // namespace kt
