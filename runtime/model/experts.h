#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/context.h"
#include "runtime/model/weights.h"

namespace kt {

// Which experts each row wants: row r goes to ids[r * top_k + j] with weights[r * top_k + j]; -1: another sees to it.
struct Routing {
  std::span<const int32_t> ids;
  std::span<const float> weights;
  int rows = 0, top_k = 0;
};

// Computes routed experts; keeps the memory that this needs between calls, sized by the largest batch.
class ExpertRunner {
 public:
  // `columns`: of each expert on this rank; `format`: of their weights. Room for a format with 8-bit activations will
  // do for every format.
  ExpertRunner(const MoeSpec& spec, int hidden, int columns, Format format, int max_rows);
  static size_t bytes(const MoeSpec& spec, int hidden, int columns, Format format, int max_rows);

  // out[r] += sum over j of weight * down(silu(gate(x_r)) * up(x_r)), for this rank's columns of each expert. out is
  // (rows, ldo) float64, multiples of the grid. `experts` is one layer of a bank.
  void run(const KernelContext& k, const FfnWeights* experts, const Rows& x, const Routing& routing, double* out,
           int64_t ldo);
  // Bytes of the experts that the last run touched.
  double traffic() const { return traffic_; }

 private:
  struct Group {
    int expert, begin, count;  // rows [begin, begin + count) of the grouped arrays
  };
  void group(const Routing& routing);
  Rows quantized(const KernelContext& k, const Rows& x, int rows, int group_tiles);
  void quantize_activations(const Ops& ops, const Group& g, int begin, int end, int group_tiles);

  MoeSpec spec_;
  int hidden_, columns_;
  double traffic_ = 0.0;
  std::vector<Group> groups_;      // experts with rows, ascending
  std::vector<int> fill_;          // per expert
  std::vector<int32_t> row_;       // grouped: row of the batch
  std::vector<float> weight_;      // grouped
  std::vector<bf16> activations_;  // grouped: (rows, round_up(columns, 32))

  // Rows of the batch and activations as int8 with the scales of their groups; room for groups of one tile.
  std::vector<int8_t> x_q_, activations_q_;
  std::vector<QuantGroup> x_groups_, activation_groups_;
};

}  // namespace kt
