#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/device.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/comm/dispatch.h"
#include "runtime/comm/group.h"
#include "runtime/comm/topology.h"
#include "runtime/model/cache.h"
#include "runtime/model/experts/bank.h"
#include "runtime/model/experts/expert_fetch.h"
#include "runtime/model/experts/expert_groups.h"
#include "runtime/model/experts/expert_mover.h"
#include "runtime/model/experts/hot_experts.h"
#include "runtime/model/experts/remote_experts.h"
#include "runtime/model/latent_blocks.h"
#include "runtime/model/step_memory.h"
#include "runtime/step/step.h"
#include "runtime/step/step_clock.h"
#include "runtime/weights/weights.h"

namespace kt {

// A trunk rank: everything but the routed experts that live elsewhere. The functions of forward.cpp, attention.cpp,
// mla.cpp, delta_net.cpp and moe.cpp take it as their first argument; there are no methods.
struct Trunk {
  Transport& transport;
  const Topology& topology;
  Device& device;
  const Checkpoint& checkpoint;  // for the embedding
  const ModelConfig& config;
  const TrunkShare& share;
  const TrunkWeights& weights;
  const ExpertBank*
      bank;  // experts that this rank computes itself: all in a world of one, a shard on a rank that is both
  StateCache& cache;
  TrunkDispatch* dispatch = nullptr;  // to expert ranks; null: there are none elsewhere
  Group* group = nullptr;             // of the trunk ranks; null: this one is rank 0 and alone

  // Memory of a step, for the largest; made once by make_trunk.
  TrunkLimits limits;
  StepMemory step;
  RoutingMemory routed;  // of a layer
  Buffer step_memory, routing_memory;

  Batch batch;                      // of this step
  std::vector<LatentBlock> blocks;  // and how latent attention takes its rows
  StepReport report;                // of this step

  std::vector<ExpertShare> expert_shares;  // of topology.experts
  std::vector<RemoteTeam> remote;          // of dispatch->teams()
  ExpertGroups groups;                     // of all expert ranks
  int last_moe_layer = -1;
  bool layerwise = false;                    // this step
  std::unique_ptr<HotExperts> hot;           // null when there are none
  std::unique_ptr<ExpertMover> mover;        // null when none come beside steps
  const ExpertSource* hot_source = nullptr;  // the checkpoint that they are read from; null: the banks
  std::unique_ptr<HotExperts> stream[2];     // of layerwise steps: one batch is computed while the next one comes
  FetchRoom fetch_room;                      // of those
  std::vector<int32_t> hot_ids, cold_ids, late_ids, group_of, group_ids, group_late_ids;  // of a layer's routing

  StepClock clock;

  // The rows of this step.
  Mat<bf16> normed() const { return step.h.top(batch.rows()); }
  Mat<double> sums() const { return step.y.top(batch.rows()); }
};

// `copies` of experts, by group of expert ranks; see ExpertGroups.
Trunk make_trunk(Transport& transport, const Topology& topology, Device& device, const Checkpoint& checkpoint,
                 const ModelConfig& config, const TrunkShare& share, const TrunkWeights& weights,
                 const ExpertBank* bank, StateCache& cache, TrunkLimits limits, std::span<const ExpertSets> copies = {},
                 TrunkDispatch* dispatch = nullptr, Group* group = nullptr);

// One forward pass. Returns this rank's logits on the host: (plan.logit_rows(), share.vocab.size()) with
// t.step.logits.ld.
const float* forward(Trunk& t, const StepPlan& plan);

// Makes t.batch what the plan says, without rotary angles.
void make_batch(Trunk& t, const StepPlan& plan);

// Parts of a layer, in the order of a forward pass. Each reads the normed rows t.step.h and adds its share to t.step.y.
void mix_attention(Trunk& t, int layer);
void mix_mla(Trunk& t, int layer);
void mix_delta_net(Trunk& t, int layer);
void dense_ffn(Trunk& t, int layer);
void moe(Trunk& t, int layer);

// What moe needs between layers.
void make_expert_room(Trunk& t, std::span<const ExpertSets> copies);
struct ExpertRoomBytes {
  size_t hot = 0;      // their weights
  size_t stream = 0;   // weights on their way in layerwise steps
  size_t scratch = 0;  // ids
};
ExpertRoomBytes expert_room_bytes(const ModelConfig& config, const TrunkShare& share, TrunkLimits limits);

}  // namespace kt
