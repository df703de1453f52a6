#include <algorithm>
#include <cstring>
#include <future>

#include "runtime/base/error.h"
#include "runtime/model/experts/expert_fetch.h"
#include "runtime/model/traffic.h"

namespace kt {
namespace {

// y += scale * SwiGLU(h) on this rank's columns.
void add_ffn(Trunk& t, const FfnWeights& w, int inter, const float* scale) {
  if (!w.columns) return;
  const Mat<bf16> h{t.step.activations.at, round_up(w.columns, kTileK), t.batch.rows(), w.columns};
  t.device.swiglu(t.normed(), w.gate_up, h);
  t.device.linear_sum(h, w.down, slice_width(inter), scale, t.sums());
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
Routing route(Trunk& t, int layer) {
  const MoeSpec& moe = t.config.moe;
  const int rows = t.batch.rows();
  const Mat<float> logits = t.step.router.top(rows);
  const SigmoidRouting sigmoid = sigmoid_routing(moe, t.weights.layers[layer].router_bias);
  t.device.linear(t.normed(), {{t.weights.layers[layer].router, logits}});
  t.device.route({.logits = logits,
                  .sigmoid = moe.sigmoid ? &sigmoid : nullptr,
                  .experts = moe.experts,
                  .top_k = moe.top_k,
                  .normalise = moe.norm_topk,
                  .ids = t.routed.ids,
                  .weights = t.routed.weights,
                  .shared_gate = moe.shared_gate ? t.step.shared_gate.at : nullptr});
  t.device.wait();
  const size_t pairs = static_cast<size_t>(rows) * moe.top_k;
  return {.ids = {t.routed.ids, pairs}, .weights = {t.routed.weights, pairs}, .rows = rows, .top_k = moe.top_k};
}

// What rank 0 asked to know.
void note(StepReport& report, int layer, int experts, const Routing& routing) {
  report.pairs += static_cast<int64_t>(routing.ids.size());
  for (float w : routing.weights) report.weight += w;
  if (!report.counts.empty())
    for (int32_t id : routing.ids) ++report.counts[static_cast<size_t>(layer) * experts + id];
  if (!report.ids.empty())
    std::copy(routing.ids.begin(), routing.ids.end(), &report.ids[static_cast<size_t>(layer) * routing.ids.size()]);
}

// Who computes which pair of a layer; -1 in the others' ids. Without rows: nobody does.
struct Assignment {
  Routing hot, cold, late;
};

// A token's experts in order of weight: how many come before pair j of the row.
int place_of(std::span<const float> weights, int j) {
  int before = 0;
  for (int i = 0; i < static_cast<int>(weights.size()); ++i)
    before += weights[i] > weights[j] || (weights[i] == weights[j] && i < j);
  return before;
}

// Hot experts are computed here. Of the cold ones a token may defer the `max_deferred` with the least weight among all
// of its experts, but not past the last MoE layer.
Assignment assign(Trunk& t, int layer, const Routing& routing) {
  const bool defers = t.limits.max_deferred > 0 && !t.layerwise && layer != t.last_moe_layer;
  if (!t.hot && !defers) return {.hot = {}, .cold = routing, .late = {}};
  const size_t pairs = routing.ids.size(), top_k = static_cast<size_t>(routing.top_k);
  bool any_hot = false, any_late = false;
  for (size_t i = 0; i < pairs; ++i) {
    const int32_t id = routing.ids[i];
    t.hot_ids[i] = t.cold_ids[i] = t.late_ids[i] = -1;
    const auto weights = routing.weights.subspan(i / top_k * top_k, top_k);
    if (t.hot && t.hot->holds(layer, id)) {
      t.hot_ids[i] = id;
      any_hot = true;
      ++t.report.hot_pairs;
    } else if (defers && place_of(weights, static_cast<int>(i % top_k)) >= routing.top_k - t.limits.max_deferred) {
      t.late_ids[i] = id;
      any_late = true;
      ++t.report.late_pairs;
      t.report.late_weight += routing.weights[i];
    } else {
      t.cold_ids[i] = id;
    }
  }
  const auto with = [&](bool any, const std::vector<int32_t>& ids) {
    Routing r = routing;
    r.ids = {ids.data(), pairs};
    return any ? r : Routing{};
  };
  return {with(any_hot, t.hot_ids), with(true, t.cold_ids), with(any_late, t.late_ids)};
}

// Which group of expert ranks computes each pair that is not hot.
void assign_groups(Trunk& t, int layer, const Routing& routing, const Routing& hot) {
  if (t.groups.count() == 1) return;
  t.group_of.assign(routing.ids.begin(), routing.ids.end());
  for (size_t i = 0; hot.rows && i < t.group_of.size(); ++i)
    if (hot.ids[i] >= 0) t.group_of[i] = -1;
  t.groups.assign(layer, t.group_of);
}

// Experts that are here; the time is theirs.
void run_experts(Trunk& t, const FfnWeights* experts, const Routing& routing) {
  const double bytes = t.device.experts({.experts = experts,
                                         .slice = slice_width(t.config.moe.inter),
                                         .x = t.normed(),
                                         .routing = routing,
                                         .y = t.sums()});
  t.clock.lap(StepPart::experts, bytes);
}

// The experts that the rows want come here, batch by batch: one is computed while the next is on its way.
void run_streamed(Trunk& t, int layer, const Routing& cold) {
  std::vector<bool> wanted(static_cast<size_t>(t.config.moe.experts));
  for (int32_t id : cold.ids)
    if (id >= 0) wanted[static_cast<size_t>(id)] = true;
  std::vector<int32_t> experts;
  for (int e = 0; e < t.config.moe.experts; ++e)
    if (wanted[static_cast<size_t>(e)]) experts.push_back(e);
  t.report.streamed_bytes += static_cast<int64_t>(experts.size() * t.stream[0]->shape().bytes());

  ExpertFetch fetch(t, t.transport, t.dispatch, t.fetch_room, layer, std::move(experts));
  const auto bring = [&](HotExperts& slots) {
    return fetch.next([&](int32_t expert) { return slots.take(layer, expert); });
  };
  std::span<const int32_t> batch = bring(*t.stream[0]);
  for (int b = 0; !batch.empty(); b ^= 1) {
    HotExperts &here = *t.stream[b], &there = *t.stream[b ^ 1];
    std::future<std::span<const int32_t>> next = std::async(std::launch::async, [&] {
      t.device.host_threads().unpin_caller();
      return bring(there);
    });
    for (size_t i = 0; i < cold.ids.size(); ++i)
      t.group_ids[i] = cold.ids[i] >= 0 && here.holds(layer, cold.ids[i]) ? cold.ids[i] : -1;
    Routing routing = cold;
    routing.ids = {t.group_ids.data(), cold.ids.size()};
    run_experts(t, here.layer(layer), routing);
    for (int32_t e : batch) here.give_up(layer, e);
    batch = next.get();
    t.clock.lap(StepPart::wait);
  }
}

}  // namespace

void dense_ffn(Trunk& t, int layer) {
  const FfnWeights& w = t.weights.layers[layer].dense;
  add_ffn(t, w, t.config.dense_inter, nullptr);
  t.clock.lap(StepPart::dense, ffn_traffic(w));
}

void moe(Trunk& t, int layer) {
  const MoeSpec& spec = t.config.moe;
  const LayerWeights& w = t.weights.layers[layer];
  const Routing routing = route(t, layer);
  note(t.report, layer, spec.experts, routing);
  const Assignment a = assign(t, layer, routing);

  assign_groups(t, layer, routing, a.hot);
  if (!t.layerwise) send_rows(t, layer, a.cold, a.late);
  t.clock.lap(StepPart::router, static_cast<double>(w.router.bytes()));
  if (spec.shared_inter) {
    add_ffn(t, w.shared, spec.shared_inter, spec.shared_gate ? t.step.shared_gate.at : nullptr);
    t.clock.lap(StepPart::shared, ffn_traffic(w.shared));
  }
  if (t.dispatch) t.dispatch->progress();
  if (a.hot.rows) run_experts(t, t.hot->layer(layer), a.hot);
  if (t.layerwise) return run_streamed(t, layer, a.cold);
  if (t.bank) run_experts(t, t.bank->layer(layer, spec.experts), of_group(t, a.cold, t.bank->share.group, t.group_ids));
  receive_sums(t);
}

void make_expert_room(Trunk& t, std::span<const ExpertSets> copies) {
  const ModelConfig& c = t.config;
  for (int layer = 0; layer < static_cast<int>(c.layers.size()); ++layer)
    if (c.layers[layer].ffn == Ffn::moe) t.last_moe_layer = layer;
  const std::vector<int> one_group(t.topology.experts.size(), 0);
  t.expert_shares = expert_shares(c.moe.inter, t.topology.group_of.empty() ? one_group : t.topology.group_of);
  if (t.dispatch) t.remote.resize(t.dispatch->teams().size());
  t.groups = ExpertGroups(t.expert_shares.front().groups, c.moe.experts, copies);
  const size_t pairs = static_cast<size_t>(t.limits.max_rows) * c.moe.top_k;
  for (auto* ids : {&t.hot_ids, &t.cold_ids, &t.late_ids, &t.group_of, &t.group_ids, &t.group_late_ids})
    ids->resize(pairs);
  const Range columns = inter_part(c.moe.inter, t.share.index, t.share.count);
  const auto slots = [&](Format format, int64_t count) {
    return std::make_unique<HotExperts>(c, format, columns, count, t.device);
  };
  if (t.limits.hot_experts) t.hot = slots(t.limits.hot_format, t.limits.hot_experts + t.limits.spare_experts);
  if (t.limits.layerwise)
    for (auto& s : t.stream) s = slots(t.limits.expert_format, fetch_batch(c, t.limits.expert_format));
}

ExpertRoomBytes expert_room_bytes(const ModelConfig& c, const TrunkShare& share, TrunkLimits limits) {
  const int columns = inter_part(c.moe.inter, share.index, share.count).size();
  const auto weights = [&](Format format, int64_t slots) {
    return Buffer::footprint(HotExperts::bytes(c, format, columns, slots));
  };
  ExpertRoomBytes bytes{.hot = weights(limits.hot_format, limits.hot_experts + limits.spare_experts)};
  if (limits.layerwise) bytes.stream = 2 * weights(limits.expert_format, fetch_batch(c, limits.expert_format));
  bytes.scratch = 6 * static_cast<size_t>(limits.max_rows) * c.moe.top_k * sizeof(int32_t);
  return bytes;
}

}  // namespace kt
