#pragma once

#include <memory>
#include <vector>

#include "runtime/model/experts/expert_fetch.h"
#include "runtime/model/experts/expert_groups.h"
#include "runtime/model/experts/expert_mover.h"
#include "runtime/model/experts/hot_experts.h"
#include "runtime/model/experts/piece_routing.h"
#include "runtime/model/experts/remote_experts.h"
#include "runtime/model/trunk.h"

namespace kt {

// A layer's routing on the host, (rows, top_k) of each.
struct RoutingMemory {
  int32_t* ids = nullptr;
  float* weights = nullptr;
  int32_t *hot = nullptr, *cold = nullptr,
          *late = nullptr;      // of those ids the ones of each kind, -1 in the others' places
  int32_t* group_of = nullptr;  // the group of expert ranks that computes each
  int32_t *of_group = nullptr, *late_of_group = nullptr;  // of cold and late ids those of one group
  PieceMemory pieces;                                     // of the rank's own bank
};

// Rows for a bank that lies elsewhere than in the trunk's memory, and their sums, on the host.
struct BankRows {
  Mat<bf16> rows;
  Mat<double> sums;
  int32_t* every = nullptr;  // 0, 1, 2, ...: rows of the batch
};

// Of a trunk rank: what routed experts need between layers and steps.
struct MoeRoom {
  const ExpertBank* bank = nullptr;  // experts that this rank computes itself: all in a world of one, a shard on a
                                     // rank that is both
  std::vector<ExpertShare> shares;   // of topology.experts
  std::vector<RemoteTeam> remote;    // of dispatch->teams()
  ExpertGroups groups;               // of all expert ranks
  int last_layer = -1;               // with experts
  bool layerwise = false, sliced = false;  // this step

  std::unique_ptr<HotExperts> hot;           // null when there are none
  std::unique_ptr<ExpertMover> mover;        // null when none come beside steps
  const ExpertSource* hot_source = nullptr;  // the checkpoint that they are read from; null: the banks
  std::unique_ptr<HotExperts> stream[2];     // of layerwise steps: one batch is computed while the next one comes
  FetchRoom fetch_room;                      // of those

  Buffer memory, apart_memory;
  RoutingMemory routed;  // of a layer
  BankRows apart;
};

// Bytes of what make_moe_room takes.
struct MoeRoomBytes {
  size_t hot = 0;     // weights of hot experts
  size_t stream = 0;  // weights on their way in layerwise steps
  size_t host = 0;    // in the host's memory: routing of a layer, rows for a bank apart, weights on their way
};
// `bank`: of the rank's own, if it has one.
MoeRoomBytes moe_room_bytes(const ModelConfig& config, const TrunkShare& share, const TrunkLimits& limits,
                            const ExpertShare& bank);

}  // namespace kt
