#include "runtime/model/experts.h"

namespace kt {

ExpertRunner::ExpertRunner(const MoeSpec& spec, int hidden, int columns, int max_rows)
    : spec_(spec), hidden_(hidden), columns_(columns), fill_(spec.experts) {
  const size_t pairs = static_cast<size_t>(max_rows) * spec.top_k;
  groups_.reserve(spec.experts);
  row_.resize(pairs);
  weight_.resize(pairs);
  activations_.resize(pairs * round_up(columns, kTileK));
}

// Counting sort by expert; rows of one expert stay in ascending order.
void ExpertRunner::group(const Routing& routing) {
  std::fill(fill_.begin(), fill_.end(), 0);
  const int pairs = routing.rows * routing.top_k;
  for (int i = 0; i < pairs; ++i) ++fill_[routing.ids[i]];
  groups_.clear();
  for (int e = 0, at = 0; e < spec_.experts; ++e) {
    if (fill_[e]) groups_.push_back({e, at, fill_[e]});
    const int count = fill_[e];
    fill_[e] = at;
    at += count;
  }
  for (int i = 0; i < pairs; ++i) {
    const int at = fill_[routing.ids[i]]++;
    row_[at] = i / routing.top_k;
    weight_[at] = routing.weights[i];
  }
}

void ExpertRunner::run(const KernelContext& k, const FfnWeights* experts, const Rows& x, const Routing& routing,
                       double* out, int64_t ldo) {
  if (!columns_ || !routing.rows) return;
  group(routing);
  const int64_t ldh = round_up(columns_, kTileK);
  const int groups = static_cast<int>(groups_.size());

  // Gate and up: tasks are (expert, part of its columns), enough of them to keep every thread busy.
  const int pairs = static_cast<int>(ldh) / kPanel;
  const int wanted = 4 * k.pool.size();
  const int parts = groups >= wanted ? 1 : std::min<int>(ceil_div(wanted, groups), ceil_div(pairs, 2));
  const int step = static_cast<int>(round_up(ceil_div(pairs, parts), 2));
  k.pool.run(static_cast<int64_t>(groups) * parts, [&](int64_t task) {
    const Group& g = groups_[task / parts];
    const int begin = static_cast<int>(task % parts) * step, end = std::min(pairs, begin + step);
    if (begin >= end) return;
    k.ops.swiglu({.data = x.data, .stride = x.stride, .count = g.count, .index = &row_[g.begin]},
                 experts[g.expert].gate_up, begin, end, &activations_[g.begin * ldh], ldh);
  });

  // Down: tasks own columns of the output, so no two write to one place.
  k.split(ceil_div(hidden_, kPanel), 4, [&](int begin, int end) {
    for (const Group& g : groups_)
      k.ops.matmul_add({.data = &activations_[g.begin * ldh], .stride = ldh, .count = g.count}, experts[g.expert].down,
                       slice_width(spec_.inter), begin, end, &weight_[g.begin], out, ldo, &row_[g.begin]);
  });
}

}  // namespace kt
