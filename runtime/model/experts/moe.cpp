#include <algorithm>
#include <cstring>
#include <future>

#include "runtime/base/error.h"
#include "runtime/model/experts/moe_room.h"
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

SigmoidRouting sigmoid_routing(const MoeSpec& moe, DeviceFloats bias) {
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
                  .ids = t.experts->routed.ids,
                  .weights = t.experts->routed.weights,
                  .shared_gate = moe.shared_gate ? t.step.shared_gate.at : nullptr});
  t.device.wait();
  const size_t pairs = static_cast<size_t>(rows) * moe.top_k;
  return {.ids = {t.experts->routed.ids, pairs},
          .weights = {t.experts->routed.weights, pairs},
          .rows = rows,
          .top_k = moe.top_k};
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
  MoeRoom& room = *t.experts;
  const bool defers = t.limits.max_deferred > 0 && !room.layerwise && layer != room.last_layer;
  if (!room.hot && !defers) return {.hot = {}, .cold = routing, .late = {}};
  const size_t pairs = routing.ids.size(), top_k = static_cast<size_t>(routing.top_k);
  const RoutingMemory& ids = room.routed;
  bool any_hot = false, any_late = false;
  for (size_t i = 0; i < pairs; ++i) {
    const int32_t id = routing.ids[i];
    ids.hot[i] = ids.cold[i] = ids.late[i] = -1;
    const auto weights = routing.weights.subspan(i / top_k * top_k, top_k);
    if (room.hot && room.hot->holds(layer, id)) {
      ids.hot[i] = id;
      any_hot = true;
      ++t.report.hot_pairs;
    } else if (defers && place_of(weights, static_cast<int>(i % top_k)) >= routing.top_k - t.limits.max_deferred) {
      ids.late[i] = id;
      any_late = true;
      ++t.report.late_pairs;
      t.report.late_weight += routing.weights[i];
    } else {
      ids.cold[i] = id;
    }
  }
  const auto with = [&](bool any, const int32_t* of_kind) {
    Routing r = routing;
    r.ids = {of_kind, pairs};
    return any ? r : Routing{};
  };
  return {with(any_hot, ids.hot), with(true, ids.cold), with(any_late, ids.late)};
}

// Which group of expert ranks computes each pair that is not hot.
void assign_groups(MoeRoom& room, int layer, const Routing& routing, const Routing& hot) {
  if (room.groups.count() == 1 || room.sliced) return;
  const std::span<int32_t> group_of(room.routed.group_of, routing.ids.size());
  for (size_t i = 0; i < group_of.size(); ++i) group_of[i] = hot.rows && hot.ids[i] >= 0 ? -1 : routing.ids[i];
  room.groups.assign(layer, group_of);
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

// Those of the rank's own bank. One that lies elsewhere gets the rows by way of the host; its sums are exact.
void run_bank(Trunk& t, int layer, const Routing& cold) {
  const ExpertBank& bank = *t.experts->bank;
  const FfnWeights* experts = bank.layer(layer, t.config.moe.experts);
  PieceWidths widths(bank.share, t.experts->sliced);
  const PieceMemory& memory = t.experts->routed.pieces;
  Routing pieces;
  if (bank.device == &t.device) {
    while (widths.next(cold, memory, pieces)) run_experts(t, experts, pieces);
    return;
  }
  const BankRows& apart = t.experts->apart;
  const std::span<const int32_t> every(apart.every, static_cast<size_t>(cold.rows));
  const Mat<double> sums = apart.sums.top(cold.rows);
  t.device.rows_out(t.normed(), every, apart.rows.top(cold.rows));
  bank.device->clear(sums.at, static_cast<size_t>(sums.rows * sums.ld) * sizeof(double));
  t.device.wait();
  double bytes = 0;
  while (widths.next(cold, memory, pieces)) {
    bytes += bank.device->experts({.experts = experts,
                                   .slice = slice_width(t.config.moe.inter),
                                   .x = apart.rows.top(cold.rows),
                                   .routing = pieces,
                                   .y = sums});
    bank.device->wait();
  }
  t.device.sums_in({.at = reinterpret_cast<const std::byte*>(sums.at), .stride = sums.ld}, every, t.sums());
  t.clock.lap(StepPart::experts, bytes);
}

// The experts that the rows want come here, batch by batch: one is computed while the next is on its way.
void run_streamed(Trunk& t, int layer, const Routing& cold) {
  MoeRoom& room = *t.experts;
  std::vector<bool> wanted(static_cast<size_t>(t.config.moe.experts));
  for (int32_t id : cold.ids)
    if (id >= 0) wanted[static_cast<size_t>(id)] = true;
  std::vector<int32_t> experts;
  for (int e = 0; e < t.config.moe.experts; ++e)
    if (wanted[static_cast<size_t>(e)]) experts.push_back(e);
  t.report.streamed_bytes += static_cast<int64_t>(experts.size() * room.stream[0]->shape().bytes());

  ExpertFetch fetch(t, t.transport, t.dispatch, room.fetch_room, layer, std::move(experts));
  const auto bring = [&](HotExperts& slots) {
    return fetch.next([&](int32_t expert) { return slots.take(layer, expert); });
  };
  std::span<const int32_t> batch = bring(*room.stream[0]);
  for (int b = 0; !batch.empty(); b ^= 1) {
    HotExperts &here = *room.stream[b], &there = *room.stream[b ^ 1];
    for (int32_t e : batch) here.arrive(layer, e);
    std::future<std::span<const int32_t>> next = std::async(std::launch::async, [&] {
      t.device.host_threads().unpin_caller();
      return bring(there);
    });
    for (size_t i = 0; i < cold.ids.size(); ++i)
      room.routed.of_group[i] = cold.ids[i] >= 0 && here.holds(layer, cold.ids[i]) ? cold.ids[i] : -1;
    Routing routing = cold;
    routing.ids = {room.routed.of_group, cold.ids.size()};
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
  MoeRoom& room = *t.experts;
  const MoeSpec& spec = t.config.moe;
  const LayerWeights& w = t.weights.layers[layer];
  const Routing routing = route(t, layer);
  note(t.report, layer, spec.experts, routing);
  const Assignment a = assign(t, layer, routing);

  assign_groups(room, layer, routing, a.hot);
  if (!room.layerwise) send_rows(t, layer, a.cold, a.late);
  t.clock.lap(StepPart::router, static_cast<double>(w.router.bytes()));
  if (spec.shared_inter) {
    add_ffn(t, w.shared, spec.shared_inter, spec.shared_gate ? t.step.shared_gate.at : nullptr);
    t.clock.lap(StepPart::shared, ffn_traffic(w.shared));
  }
  if (t.dispatch) t.dispatch->progress();
  if (a.hot.rows) run_experts(t, room.hot->layer(layer), a.hot);
  if (room.layerwise) return run_streamed(t, layer, a.cold);
  if (room.bank) run_bank(t, layer, of_group(room, a.cold, room.bank->share.group, room.routed.of_group));
  receive_sums(t);
}

}  // namespace kt
