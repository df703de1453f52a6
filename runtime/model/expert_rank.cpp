#include "runtime/model/expert_rank.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/error.h"
#include "runtime/model/dispatch.h"
#include "runtime/model/expert_fetch.h"

namespace kt {
namespace {

// The memory of an expert rank's steps.
struct ExpertRank {
  Transport& transport;
  const Topology& topology;
  Device& device;
  const ModelConfig& config;
  const ExpertBank& bank;
  int max_rows;

  size_t trunks = topology.trunk.size();
  int64_t stride = round_up(config.hidden, kTileK), ldo = round_up(config.hidden, kPanel);
  std::vector<std::vector<std::byte>> inbox = std::vector<std::vector<std::byte>>(trunks);
  std::vector<DispatchMessage> messages = {};  // one from each trunk rank
  std::vector<bf16> x = std::vector<bf16>(static_cast<size_t>(max_rows) * stride);
  std::vector<int32_t> now = std::vector<int32_t>(static_cast<size_t>(max_rows) * config.moe.top_k), late = now;
  std::vector<float> weights = std::vector<float>(now.size());
  std::vector<double> sums = std::vector<double>(static_cast<size_t>(max_rows) * ldo);
  std::vector<double> results = std::vector<double>(static_cast<size_t>(max_rows) * config.hidden);
  std::vector<double> late_results = {};               // made when something is deferred first
  std::vector<std::vector<std::byte>> staged[2] = {};  // weights for each trunk rank, one batch made while one is sent
  StepClock clock{config.layers.size()};
};

// All trunk ranks ask the same at the same point.
void receive_asks(ExpertRank& r) {
  r.messages.clear();
  for (size_t t = 0; t < r.trunks; ++t) {
    r.transport.receive(r.topology.trunk[t], Tag::rows, r.inbox[t]);
    const DispatchMessage& m = r.messages.emplace_back(decode_dispatch(r.inbox[t], r.config.moe.experts));
    const DispatchMessage& first = r.messages.front();
    if (m.ask != first.ask || m.layer != first.layer)
      fail(kExitPeerLost, "trunk ranks are at different points: layers {} and {}", first.layer, m.layer);
    if ((m.ask == Ask::compute || m.ask == Ask::weights) &&
        (m.layer < 0 || m.layer >= static_cast<int>(r.bank.moe_index.size()) ||
         r.bank.moe_index[static_cast<size_t>(m.layer)] < 0))
      fail(kExitPeerLost, "layer {} has no experts", m.layer);
  }
}

// Called when the asks are there. Before a step's first layer there may just have been nothing to do.
void start_layer(ExpertRank& r) {
  const DispatchMessage& first = r.messages.front();
  const bool goes_on = r.bank.moe_index[static_cast<size_t>(first.layer)] > 0;
  int rows = 0;
  for (const DispatchMessage& m : r.messages) rows += m.now.rows;
  if (!goes_on) r.clock.begin(first.phase, rows);
  r.clock.enter(first.layer);
  if (goes_on) r.clock.lap(StepPart::wait);
}

// The rows of all trunk ranks as one batch; returns how many.
int gather_rows(ExpertRank& r) {
  const int top_k = r.config.moe.top_k;
  int rows = 0;
  for (const DispatchMessage& m : r.messages) {
    if (m.hidden != r.config.hidden || m.now.top_k != top_k || rows + m.now.rows > r.max_rows)
      fail(kExitPeerLost, "expert rows for layer {}: {} rows of {} with {} experts each do not fit this model", m.layer,
           m.now.rows, m.hidden, m.now.top_k);
    const size_t pair = static_cast<size_t>(rows) * top_k;
    for (int i = 0; i < m.now.rows; ++i)
      std::memcpy(&r.x[(rows + i) * r.stride], m.rows + static_cast<int64_t>(i) * m.hidden, m.hidden * sizeof(bf16));
    std::copy(m.now.ids.begin(), m.now.ids.end(), &r.now[pair]);
    std::copy(m.now.weights.begin(), m.now.weights.end(), &r.weights[pair]);
    if (m.has_late)
      std::copy(m.late.ids.begin(), m.late.ids.end(), &r.late[pair]);
    else
      std::fill_n(&r.late[pair], m.now.ids.size(), -1);
    rows += m.now.rows;
  }
  return rows;
}

double run_experts(ExpertRank& r, const std::vector<int32_t>& ids, int rows, std::vector<double>& out) {
  const int hidden = r.config.hidden;
  const size_t pairs = static_cast<size_t>(rows) * r.config.moe.top_k;
  std::memset(r.sums.data(), 0, static_cast<size_t>(rows) * r.ldo * sizeof(double));
  const double bytes = r.device.experts({.experts = r.bank.layer(r.messages[0].layer, r.config.moe.experts),
                                         .slice = slice_width(r.config.moe.inter),
                                         .x = {r.x.data(), r.stride, rows, hidden},
                                         .routing = {.ids = {ids.data(), pairs},
                                                     .weights = {r.weights.data(), pairs},
                                                     .rows = rows,
                                                     .top_k = r.config.moe.top_k},
                                         .y = {r.sums.data(), r.ldo, rows, hidden}});
  out.resize(std::max(out.size(), static_cast<size_t>(rows) * r.config.hidden));
  for (int i = 0; i < rows; ++i)
    std::memcpy(&out[static_cast<size_t>(i) * r.config.hidden], &r.sums[i * r.ldo], r.config.hidden * sizeof(double));
  return bytes;
}

// Each trunk rank gets the sums of its rows; of `late` ones if it has any.
void send_sums(ExpertRank& r, Tag tag, const std::vector<double>& sums) {
  size_t row = 0;
  for (size_t t = 0; t < r.trunks; ++t) {
    const size_t count = static_cast<size_t>(r.messages[t].now.rows);
    if (count && (tag == Tag::results || r.messages[t].has_late)) {
      const auto bytes = std::as_bytes(std::span(sums).subspan(row * r.config.hidden, count * r.config.hidden));
      r.transport.send(r.topology.trunk[t], tag, bytes);
      r.clock.sent(bytes.size());
    }
    row += count;
  }
}

// Deferred experts are computed after the answer, while the trunk goes on to the next layer.
void compute(ExpertRank& r) {
  start_layer(r);
  const int rows = gather_rows(r);
  const bool late = std::any_of(r.messages.begin(), r.messages.end(), [](const auto& m) { return m.has_late; });
  r.clock.lap(StepPart::experts, run_experts(r, r.now, rows, r.results));
  r.transport.finish_sends();  // the late sums of the layer before, which the trunk takes before these
  send_sums(r, Tag::results, r.results);
  r.transport.finish_sends();
  r.clock.lap(StepPart::other);
  if (!late) return;
  const double bytes = run_experts(r, r.late, rows, r.late_results);
  send_sums(r, Tag::late, r.late_results);
  r.clock.lap(StepPart::experts, bytes);
}

void send_weights(ExpertRank& r) {
  const std::span<const int32_t> experts = r.messages[0].experts;
  const size_t batch = static_cast<size_t>(fetch_batch(r.config, r.bank.format));
  for (auto& s : r.staged) s.resize(r.trunks);
  for (size_t first = 0, b = 0; first < experts.size(); first += batch, b ^= 1) {
    const auto part = experts.subspan(first, std::min(batch, experts.size() - first));
    for (size_t t = 0; t < r.trunks; ++t)
      stage_pieces(r.config, r.bank, r.messages[0].layer, part,
                   inter_part(r.config.moe.inter, static_cast<int>(t), static_cast<int>(r.trunks)), r.staged[b][t]);
    r.transport.finish_sends();
    for (size_t t = 0; t < r.trunks; ++t)
      if (!r.staged[b][t].empty()) r.transport.send(r.topology.trunk[t], Tag::weights, r.staged[b][t]);
  }
  r.transport.finish_sends();
}

void tell_clock(ExpertRank& r) {
  const std::vector<std::byte> reading = encode(r.clock.reading());
  r.transport.send(0, Tag::clock, reading);
  r.transport.finish_sends();
}

}  // namespace

void serve_experts(Transport& transport, const Topology& topology, Device& device, const ModelConfig& config,
                   const ExpertBank& bank, int max_rows) {
  ExpertRank r{transport, topology, device, config, bank, max_rows};
  for (;;) {
    receive_asks(r);
    switch (r.messages[0].ask) {
      case Ask::compute: compute(r); break;
      case Ask::weights: send_weights(r); break;
      case Ask::clock: tell_clock(r); break;
      case Ask::leave: return;
    }
  }
}

}  // namespace kt
