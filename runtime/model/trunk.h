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
#include "runtime/model/latent_blocks.h"
#include "runtime/model/step_memory.h"
#include "runtime/step/step.h"
#include "runtime/step/step_clock.h"
#include "runtime/weights/weights.h"

namespace kt {

struct ExpertBank;
struct MoeRoom;  // experts/moe_room.h
struct DeleteMoeRoom {
  void operator()(MoeRoom* room) const;
};

// A trunk rank: everything but the routed experts that live elsewhere. The functions of forward.cpp, mixers/ and
// experts/ take it as their first argument; there are no methods.
struct Trunk {
  Transport& transport;
  const Topology& topology;
  Device& device;
  const Checkpoint& checkpoint;  // for the embedding
  const ModelConfig& config;
  const TrunkShare& share;
  const TrunkWeights& weights;
  StateCache& cache;
  TrunkDispatch* dispatch = nullptr;  // to expert ranks; null: there are none elsewhere
  Group* group = nullptr;             // of the trunk ranks; null: this one is rank 0 and alone

  // Memory of a step, for the largest; made once by make_trunk.
  TrunkLimits limits;
  StepMemory step;
  Buffer step_memory;

  Batch batch;                      // of this step
  std::vector<LatentBlock> blocks;  // and how latent attention takes its rows
  StepReport report;                // of this step

  std::unique_ptr<MoeRoom, DeleteMoeRoom> experts;

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

// What moe needs between layers and steps; `bank`: experts that this rank computes itself, or null.
void make_moe_room(Trunk& t, const ExpertBank* bank, std::span<const ExpertSets> copies);
// Of a bank in the memory of the trunk's device; of no other.
ExpertShare share_here(const ExpertBank* bank, const Device& device);
// What the orders say of experts, before anything else of a step.
void begin_experts(Trunk& t, const StepOrders& orders);
// The dispatch is another, to fewer teams: these groups of expert ranks are gone. Between steps, or in a step that was
// left.
void go_on_without(Trunk& t, TrunkDispatch& dispatch, std::span<const int> groups);
// This rank has what was to come beside the steps.
bool experts_arrived(const Trunk& t);

}  // namespace kt
