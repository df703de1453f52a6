#pragma once

#include <span>
#include <vector>

#include "runtime/plan/expert_use.h"
#include "runtime/plan/hardware.h"
#include "runtime/plan/ranks.h"

namespace kt {

// What a forward pass costs: bytes that must be read, multiplications that must be made, and messages, all of them from
// the config and from how the model is cut among the ranks. The one model behind `expert-layout: auto` (layout.h), the
// limits that `plan` prints (limits.h) and `simulate` (predict.h).

struct Work {
  double bytes = 0, flops = 0;

  Work& operator+=(const Work& w) { return bytes += w.bytes, flops += w.flops, *this; }
  friend Work operator+(Work a, const Work& b) { return a += b; }
  friend Work operator*(double n, const Work& w) { return {n * w.bytes, n * w.flops}; }
};

// Per second.
struct Rates {
  double bytes = 0, flops = 0;  // flops 0: not known, and left out

  friend Rates operator*(double n, const Rates& r) { return {n * r.bytes, n * r.flops}; }
};
// Reading and multiplying go on side by side.
double seconds(const Work& work, const Rates& rates);
Rates cpu_rates(const Hardware& machine);  // of a whole machine
Rates gpu_rates(const Hardware& machine);  // of one GPU

struct Pass {
  double rows = 0, logit_rows = 0, sequences = 1;
  double keys = 0;  // that a row sees on average
};

// The numbers of a pass that do not depend on its rows. Bytes and weights of the trunk are those of its first rank.
struct PassCost {
  const ModelConfig& config;
  TrunkShare share;  // of the first trunk rank
  TrunkLimits limits;
  double trunks = 1, moe_layers = 0;
  double trunk_bytes = 0, trunk_weights = 0, head_weights = 0;  // without the shared expert
  double shared_bytes = 0, shared_weights = 0;                  // of all layers
  double state_bytes = 0;                                       // of a sequence
  Work expert, hot_expert;                                      // one routed expert: its bytes; for a row, its flops
  double hot = 0;                                               // share of all experts
  int threshold = 0;                                            // rows from which on a pass is layerwise; 0: none is

  Work trunk(const Pass& pass) const;      // without shared and hot experts
  Work shared(double rows) const;          // the shared expert, in all layers
  double experts_read(double rows) const;  // of one layer, all being alike
};
PassCost pass_cost(const RunConfig& run, const Deployment& deployment);

// Rows of one MoE layer to the teams of expert ranks and their sums back, as dispatch.h moves them.
struct Messages {
  double near = 0, far = 0;            // orders and sums: within machines; between them
  double near_out = 0, near_back = 0;  // bytes of rows with their routing, and of sums
  double far_out = 0, far_back = 0;    // likewise
  double bytes() const { return near_out + near_back + far_out + far_back; }
};
Messages messages_of_layer(const ModelConfig& config, const Topology& topology, WireType wire, const GroupLoads& loads,
                           double rows);

// Near ones are written to memory and read again; far ones cross the network, there and back.
double seconds_of_messages(const Messages& messages, const Hardware& machine);

// The part of one MoE layer's experts that each expert rank has on average, by its place among them; and, where its
// group is the fullest, at most.
struct BankWork {
  std::vector<Work> mean, most;
};
BankWork bank_work(const ModelConfig& config, const Work& expert, std::span<const ExpertShare> shares,
                   const GroupLoads& loads);

}  // namespace kt
