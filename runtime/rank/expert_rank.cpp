#include "runtime/rank/expert_rank.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/model/experts/ask.h"
#include "runtime/model/experts/expert_fetch.h"
#include "runtime/model/experts/piece_routing.h"

namespace kt {
namespace {

struct ExpertRank {
  Transport& transport;
  const Topology& topology;
  Device& device;
  const ModelConfig& config;
  const ExpertBank& bank;
  const DispatchShape& shape;
  ExpertDispatch& dispatch;
  StepClock& clock;
  ExpertDispatch::Asked asked = {};  // by all trunk ranks together

  // Weights for each trunk rank, one batch made while one is sent.
  std::vector<std::vector<std::byte>> staged[2] = {};
  std::vector<Ticket> sends[2] = {};

  Buffer memory = {};
  PieceMemory pieces = {};

  Ask ask() const { return static_cast<Ask>(asked.order.ask); }
};

void receive_order(ExpertRank& r) {
  r.asked = r.dispatch.next();
  check(r.asked.fault, "orders of trunk ranks");
  const Order& o = r.asked.order;
  if (o.ask < 0 || o.ask > static_cast<int32_t>(Ask::leave) || o.phase < 0 || o.phase >= kPhases)
    fail(kExitPeerLost, "orders of trunk ranks: {} in phase {} is none", o.ask, o.phase);
  if ((r.ask() == Ask::compute || r.ask() == Ask::weights) &&
      (o.layer < 0 || o.layer >= static_cast<int>(r.bank.moe_index.size()) ||
       r.bank.moe_index[static_cast<size_t>(o.layer)] < 0))
    fail(kExitPeerLost, "layer {} has no experts", o.layer);
}

// Called when the order is there. Before a step's first layer there may just have been nothing to do.
void start_layer(ExpertRank& r) {
  const Order& o = r.asked.order;
  const bool goes_on = r.bank.moe_index[static_cast<size_t>(o.layer)] > 0;
  if (!goes_on) r.clock.begin(static_cast<Phase>(o.phase), o.rows);
  r.clock.enter(o.layer);
  if (goes_on) r.clock.lap(StepPart::wait);
}

// Rows are read and sums written where trunk ranks have put and will look for them.
void run_experts(ExpertRank& r, std::span<const int32_t> ids, bool late) {
  const int rows = r.asked.order.rows, hidden = r.config.hidden, top_k = r.config.moe.top_k;
  double* sums = r.dispatch.sums(late);
  r.device.clear(sums, static_cast<size_t>(rows * r.shape.sum_stride()) * sizeof(double));
  const Routing routing{.ids = ids, .weights = r.asked.weights, .rows = rows, .top_k = top_k};
  PieceWidths widths(r.bank.share, r.asked.order.sliced);
  double bytes = 0;
  for (Routing pieces; widths.next(routing, r.pieces, pieces);)
    bytes += r.device.experts({.experts = r.bank.layer(r.asked.order.layer, r.config.moe.experts),
                               .slice = slice_width(r.config.moe.inter),
                               .x = {const_cast<bf16*>(r.asked.rows), r.shape.row_stride(), rows, hidden},
                               .routing = pieces,
                               .y = {sums, r.shape.sum_stride(), rows, hidden}});
  r.device.wait();
  r.clock.lap(StepPart::experts, bytes);
  const Given given = r.dispatch.give(late, r.device.host_threads());
  check(given.fault, "sums of experts");
  r.clock.sent(given.bytes);
  r.clock.lap(StepPart::other);
}

// Deferred experts are computed after the answer, while the trunk goes on to the next layer.
void compute(ExpertRank& r) {
  start_layer(r);
  if (r.asked.order.rows == 0) return;
  run_experts(r, r.asked.ids, false);
  if (r.asked.order.late) run_experts(r, r.asked.late, true);
}

void finish_sends(ExpertRank& r, std::vector<Ticket>& sends) {
  for (const Ticket ticket : sends) check(finish(r.transport, ticket, r.topology.rank), "experts to trunk ranks");
  sends.clear();
}

void send_weights(ExpertRank& r) {
  const std::span<const int32_t> experts = r.asked.listed;
  const size_t batch = static_cast<size_t>(fetch_batch(r.config, r.bank.format)), trunks = r.topology.trunk.size();
  for (auto& s : r.staged) s.resize(trunks);
  for (size_t first = 0, b = 0; first < experts.size(); first += batch, b ^= 1) {
    const auto part = experts.subspan(first, std::min(batch, experts.size() - first));
    finish_sends(r, r.sends[b]);
    for (size_t t = 0; t < trunks; ++t) {
      stage_pieces(r.config, r.bank, r.asked.order.layer, part,
                   inter_part(r.config.moe.inter, static_cast<int>(t), static_cast<int>(trunks)), r.staged[b][t]);
      if (!r.staged[b][t].empty())
        r.sends[b].push_back(r.transport.post_send(r.topology.trunk[t], Tag::weights, r.staged[b][t]));
    }
  }
  for (auto& sends : r.sends) finish_sends(r, sends);
}

void tell_clock(ExpertRank& r) {
  const std::vector<std::byte> reading = encode(r.clock.reading());
  r.transport.send(0, Tag::clock, reading);
  r.transport.finish_sends();
}

}  // namespace

void serve_experts(Transport& transport, const Topology& topology, ExpertDispatch& dispatch, const DispatchShape& shape,
                   StepClock& clock, Device& device, const ModelConfig& config, const ExpertBank& bank) {
  ExpertRank r{transport, topology, device, config, bank, shape, dispatch, clock};
  if (bank.share.parts() > 1)
    r.pieces = take_laid_out(
        r.memory, [&](size_t bytes) { return device.take_host(bytes); },
        [&](Layout& l) { return lay_out_pieces(l, config, bank.share, shape.rows); });
  for (;;) {
    receive_order(r);
    switch (r.ask()) {
      case Ask::compute: compute(r); break;
      case Ask::weights: send_weights(r); break;
      case Ask::clock: tell_clock(r); break;
      case Ask::leave: return;
    }
  }
}

}  // namespace kt
