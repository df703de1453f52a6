#include "runtime/model/experts.h"

namespace kt {

ExpertRunner::ExpertRunner(const MoeSpec& spec, int hidden, int columns, Format format, int max_rows)
    : spec_(spec), hidden_(hidden), columns_(columns), fill_(spec.experts) {
  const size_t rows = static_cast<size_t>(max_rows), pairs = rows * spec.top_k;
  groups_.reserve(spec.experts);
  row_.resize(pairs);
  weight_.resize(pairs);
  activations_.resize(pairs * round_up(columns, kTileK));
  if (!info(format).int8_activations) return;
  x_q_.resize(rows * round_up(hidden, kTileK));
  x_groups_.resize(rows * ceil_div(hidden, kTileK));
  activations_q_.resize(activations_.size());
  activation_groups_.resize(activations_.size() / kTileK);
}

size_t ExpertRunner::bytes(const MoeSpec& spec, int hidden, int columns, Format format, int max_rows) {
  const size_t rows = static_cast<size_t>(max_rows), pairs = rows * spec.top_k;
  const size_t row_tiles = ceil_div(hidden, kTileK), activation_tiles = ceil_div(columns, kTileK);
  constexpr size_t kQuantTile = kTileK + sizeof(QuantGroup);
  return pairs * (sizeof(int32_t) + sizeof(float) + activation_tiles * kTileK * sizeof(bf16)) +
         (info(format).int8_activations ? (rows * row_tiles + pairs * activation_tiles) * kQuantTile : 0);
}

// Counting sort by expert; rows of one expert stay in ascending order.
void ExpertRunner::group(const Routing& routing) {
  std::fill(fill_.begin(), fill_.end(), 0);
  const int pairs = routing.rows * routing.top_k;
  for (int i = 0; i < pairs; ++i)
    if (routing.ids[i] >= 0) ++fill_[routing.ids[i]];
  groups_.clear();
  for (int e = 0, at = 0; e < spec_.experts; ++e) {
    if (fill_[e]) groups_.push_back({e, at, fill_[e]});
    const int count = fill_[e];
    fill_[e] = at;
    at += count;
  }
  for (int i = 0; i < pairs; ++i) {
    if (routing.ids[i] < 0) continue;
    const int at = fill_[routing.ids[i]]++;
    row_[at] = i / routing.top_k;
    weight_[at] = routing.weights[i];
  }
}

// The rows as they are, and quantised.
Rows ExpertRunner::quantized(const KernelContext& k, const Rows& x, int rows, int group_tiles) {
  const int tiles = static_cast<int>(ceil_div(hidden_, kTileK));
  Rows out = x;
  out.q_stride = tiles * kTileK;
  out.group_stride = ceil_div(tiles, group_tiles);
  out.q = x_q_.data();
  out.groups = x_groups_.data();
  k.split(rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r)
      k.ops.quantize(x.row(r), tiles, group_tiles, &x_q_[r * out.q_stride], &x_groups_[r * out.group_stride]);
  });
  return out;
}

// Panels [begin, end) of an expert's activations; begin is the first of a group.
void ExpertRunner::quantize_activations(const Ops& ops, const Group& g, int begin, int end, int group_tiles) {
  const int64_t stride = round_up(columns_, kTileK), group_stride = ceil_div(stride / kTileK, group_tiles);
  const int first_tile = begin * kPanel / kTileK, tiles = (end - begin) * kPanel / kTileK;
  for (int64_t r = g.begin; r < g.begin + g.count; ++r)
    ops.quantize(&activations_[r * stride + first_tile * kTileK], tiles, group_tiles,
                 &activations_q_[r * stride + first_tile * kTileK],
                 &activation_groups_[r * group_stride + first_tile / group_tiles]);
}

void ExpertRunner::run(const KernelContext& k, const FfnWeights* experts, const Rows& rows, const Routing& routing,
                       double* out, int64_t ldo) {
  traffic_ = 0.0;
  if (!columns_ || !routing.rows) return;
  group(routing);
  if (groups_.empty()) return;
  const FfnWeights& any = experts[groups_.front().expert];
  traffic_ = static_cast<double>(groups_.size()) * static_cast<double>(any.gate_up.bytes() + any.down.bytes());
  const int64_t ldh = round_up(columns_, kTileK);
  const int groups = static_cast<int>(groups_.size());
  const bool int8 = info(any.gate_up.format).int8_activations;  // rows and activations are quantised for the kernels
  const int group_tiles = int8 ? any.down.group_tiles : 1;
  const Rows x = int8 ? quantized(k, rows, routing.rows, any.gate_up.group_tiles) : rows;

  // Gate and up: tasks are (expert, part of its columns), enough of them to keep every thread busy. Parts begin at
  // groups of the down projection's inputs, so that a part can quantise what it has made.
  const int panels = static_cast<int>(ldh) / kPanel, unit = group_tiles * kTileK / kPanel;
  const int wanted = 4 * k.pool.size();
  const int parts = groups >= wanted ? 1 : std::min<int>(ceil_div(wanted, groups), ceil_div(panels, unit));
  const int step = static_cast<int>(round_up(ceil_div(panels, parts), unit));
  k.pool.run(static_cast<int64_t>(groups) * parts, [&](int64_t task) {
    const Group& g = groups_[task / parts];
    const int begin = static_cast<int>(task % parts) * step, end = std::min(panels, begin + step);
    if (begin >= end) return;
    Rows mine = x;
    mine.count = g.count;
    mine.index = &row_[g.begin];
    k.ops.swiglu(mine, experts[g.expert].gate_up, begin, end, &activations_[g.begin * ldh], ldh);
    if (int8) quantize_activations(k.ops, g, begin, end, group_tiles);
  });

  // Down: tasks own columns of the output, so no two write to one place.
  const int64_t group_stride = ceil_div(ldh / kTileK, group_tiles);
  k.split(ceil_div(hidden_, kPanel), 4, [&](int begin, int end) {
    for (const Group& g : groups_) {
      Rows h{.data = &activations_[g.begin * ldh], .stride = ldh, .count = g.count};
      if (int8) {
        h.q = &activations_q_[g.begin * ldh];
        h.q_stride = ldh;
        h.groups = &activation_groups_[g.begin * group_stride];
        h.group_stride = group_stride;
      }
      k.ops.matmul_add(h, experts[g.expert].down, slice_width(spec_.inter), begin, end, &weight_[g.begin], out, ldo,
                       &row_[g.begin]);
    }
  });
}

}  // namespace kt
