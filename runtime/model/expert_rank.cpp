#include "runtime/model/expert_rank.h"

#include <cstring>

#include "runtime/base/error.h"
#include "runtime/model/dispatch.h"

namespace kt {

void serve_experts(Transport& transport, const Topology& topology, const KernelContext& kernels,
                   const ModelConfig& config, const ExpertBank& bank, int max_rows) {
  const MoeSpec& moe = config.moe;
  ExpertRunner runner(moe, config.hidden, bank.columns.size(), bank.format, max_rows);
  const size_t trunks = topology.trunk.size();
  const int64_t stride = round_up(config.hidden, kTileK), ldo = round_up(config.hidden, kPanel);
  std::vector<std::vector<std::byte>> inbox(trunks);
  std::vector<bf16> x(static_cast<size_t>(max_rows) * stride);
  std::vector<int32_t> ids(static_cast<size_t>(max_rows) * moe.top_k);
  std::vector<float> weights(ids.size());
  std::vector<double> sums(static_cast<size_t>(max_rows) * ldo), packed(static_cast<size_t>(max_rows) * config.hidden);

  for (;;) {
    std::vector<DispatchMessage> messages;
    int rows = 0;
    for (size_t t = 0; t < trunks; ++t) {
      transport.receive(topology.trunk[t], Tag::rows, inbox[t]);
      const DispatchMessage& m = messages.emplace_back(decode_dispatch(inbox[t], moe.experts));
      if (m.layer != messages[0].layer)
        fail(kExitPeerLost, "trunk ranks are in different layers: {} and {}", messages[0].layer, m.layer);
      if (m.layer == kLeave) continue;
      if (m.hidden != config.hidden || m.routing.top_k != moe.top_k || rows + m.routing.rows > max_rows ||
          m.layer < 0 || m.layer >= static_cast<int>(bank.moe_index.size()) || bank.moe_index[m.layer] < 0)
        fail(kExitPeerLost, "expert rows for layer {}: {} rows of {} with {} experts each do not fit this model",
             m.layer, m.routing.rows, m.hidden, m.routing.top_k);
      for (int i = 0; i < m.routing.rows; ++i)
        std::memcpy(&x[(rows + i) * stride], m.rows + static_cast<int64_t>(i) * m.hidden, m.hidden * sizeof(bf16));
      std::memcpy(&ids[static_cast<size_t>(rows) * moe.top_k], m.routing.ids.data(), m.routing.ids.size_bytes());
      std::memcpy(&weights[static_cast<size_t>(rows) * moe.top_k], m.routing.weights.data(),
                  m.routing.weights.size_bytes());
      rows += m.routing.rows;
    }
    if (messages[0].layer == kLeave) return;

    const size_t pairs = static_cast<size_t>(rows) * moe.top_k;
    std::memset(sums.data(), 0, static_cast<size_t>(rows) * ldo * sizeof(double));
    runner.run(kernels, bank.layer(messages[0].layer, moe.experts), {.data = x.data(), .stride = stride, .count = rows},
               {.ids = {ids.data(), pairs}, .weights = {weights.data(), pairs}, .rows = rows, .top_k = moe.top_k},
               sums.data(), ldo);

    size_t row = 0;
    for (int i = 0; i < rows; ++i)
      std::memcpy(&packed[static_cast<size_t>(i) * config.hidden], &sums[i * ldo], config.hidden * sizeof(double));
    for (size_t t = 0; t < trunks; ++t) {
      const size_t count = static_cast<size_t>(messages[t].routing.rows);
      transport.send(topology.trunk[t], Tag::results,
                     std::as_bytes(std::span(packed).subspan(row * config.hidden, count * config.hidden)));
      row += count;
    }
    transport.finish_sends();
  }
}

}  // namespace kt
