#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/model/dispatch.h"
#include "runtime/model/trunk.h"

namespace kt {
namespace {

// y += scale * SwiGLU(h) on this rank's columns.
void add_ffn(Trunk& t, const FfnWeights& w, int inter, int rows, const float* scale) {
  if (!w.columns) return;
  const int64_t stride = round_up(w.columns, kTileK);
  t.kernels.swiglu(t.normed(rows), w.gate_up, t.activations.as<bf16>(), stride);
  t.kernels.matmul_add({.data = t.activations.as<bf16>(), .stride = stride, .count = rows}, w.down, slice_width(inter),
                       scale, t.y.as<double>(), t.stride.y);
}

SigmoidRouting sigmoid_routing(const MoeSpec& moe, const std::vector<float>& bias) {
  const SigmoidSpec s = moe.sigmoid.value_or(SigmoidSpec{});
  return {.bias = bias.data(),
          .experts = moe.experts,
          .top_k = moe.top_k,
          .groups = s.groups,
          .kept_groups = s.kept_groups,
          .normalise = moe.norm_topk,
          .scale = s.scale};
}

// The same on every trunk rank: the router is replicated, and so are its inputs to the bit.
Routing route(Trunk& t, int layer, int rows) {
  const MoeSpec& moe = t.config.moe;
  float* logits = t.router.as<float>();
  const SigmoidRouting sigmoid = sigmoid_routing(moe, t.weights.layers[layer].router_bias);
  t.kernels.matmul(t.normed(rows), t.weights.layers[layer].router, logits, t.stride.router);
  t.kernels.split(rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      float* row = logits + r * t.stride.router;
      int32_t* ids = &t.expert_ids[static_cast<size_t>(r) * moe.top_k];
      float* weights = &t.expert_weights[static_cast<size_t>(r) * moe.top_k];
      if (moe.sigmoid)
        t.kernels.ops.sigmoid_top_k(row, sigmoid, ids, weights);
      else
        t.kernels.ops.softmax_top_k(row, moe.experts, moe.top_k, moe.norm_topk, ids, weights);
      if (moe.shared_gate) t.kernels.ops.sigmoid(row + moe.experts, 1, &t.shared_gate[r]);
    }
  });
  const size_t pairs = static_cast<size_t>(rows) * moe.top_k;
  return {.ids = {t.expert_ids.data(), pairs},
          .weights = {t.expert_weights.data(), pairs},
          .rows = rows,
          .top_k = moe.top_k};
}

// What rank 0 asked to know.
void note(StepReport& report, int layer, int experts, const Routing& routing) {
  report.pairs += static_cast<int64_t>(routing.ids.size());
  if (!report.counts.empty())
    for (int32_t id : routing.ids) ++report.counts[static_cast<size_t>(layer) * experts + id];
  if (!report.ids.empty())
    std::copy(routing.ids.begin(), routing.ids.end(), &report.ids[static_cast<size_t>(layer) * routing.ids.size()]);
}

// Each trunk rank sends its share of the rows to the expert ranks.
void send_rows(Trunk& t, int layer, const Routing& routing, Range share) {
  if (t.remote_experts.empty()) return;
  const size_t first = static_cast<size_t>(share.begin) * routing.top_k,
               pairs = static_cast<size_t>(share.size()) * routing.top_k;
  const Routing mine{.ids = routing.ids.subspan(first, pairs),
                     .weights = routing.weights.subspan(first, pairs),
                     .rows = share.size(),
                     .top_k = routing.top_k};
  const Rows rows{.data = t.h.as<bf16>() + share.begin * t.stride.h, .stride = t.stride.h, .count = share.size()};
  encode_dispatch(layer, mine, rows, t.config.hidden, t.outbox);
  for (int rank : t.remote_experts) t.transport.send(rank, Tag::rows, t.outbox);
}

// Their sums; exact, so the order of arrival does not matter.
void receive_and_add(Trunk& t, Range share) {
  for (int rank : t.remote_experts) {
    t.transport.receive(rank, Tag::results, t.inbox);
    const size_t expected = static_cast<size_t>(share.size()) * t.config.hidden * sizeof(double);
    if (t.inbox.size() != expected)
      fail(kExitPeerLost, "rank {} returned {} bytes of expert sums instead of {}", rank, t.inbox.size(), expected);
    const auto* sums = reinterpret_cast<const double*>(t.inbox.data());
    t.kernels.split(share.size(), 1, [&](int begin, int end) {
      for (int r = begin; r < end; ++r) {
        double* y = t.y.as<double>() + (share.begin + r) * t.stride.y;
        const double* s = sums + static_cast<int64_t>(r) * t.config.hidden;
        for (int i = 0; i < t.config.hidden; ++i) y[i] += s[i];
      }
    });
  }
  t.transport.finish_sends();
}

}  // namespace

void dense_ffn(Trunk& t, int layer, int rows) {
  add_ffn(t, t.weights.layers[layer].dense, t.config.dense_inter, rows, nullptr);
}

void moe(Trunk& t, int layer, int rows) {
  const MoeSpec& spec = t.config.moe;
  const Routing routing = route(t, layer, rows);
  const Range share = part_of(rows, t.share.index, t.share.count);
  note(t.report, layer, spec.experts, routing);

  send_rows(t, layer, routing, share);
  if (spec.shared_inter)
    add_ffn(t, t.weights.layers[layer].shared, spec.shared_inter, rows,
            spec.shared_gate ? t.shared_gate.data() : nullptr);
  if (t.local_experts)
    t.local_experts->run(t.kernels, t.bank->layer(layer, spec.experts), t.normed(rows), routing, t.y.as<double>(),
                         t.stride.y);
  receive_and_add(t, share);
}

}  // namespace kt
