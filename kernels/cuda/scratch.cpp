#include "kernels/cuda/scratch.h"

#include <algorithm>

namespace kt {
namespace {

// Of the largest call, should every row be a task.
size_t order_bytes(const ExpertShape& e) {
  Layout largest;
  lay_out_orders(largest, int64_t{e.rows} * e.top_k, int64_t{e.rows} * e.top_k);
  return largest.bytes();
}

}  // namespace

QuantisedRoom lay_out_quantised_room(Layout& layout, int64_t rows, int64_t columns) {
  return {.q = layout.array<int8_t>(rows * round_up(columns, kTileK)),
          .groups = layout.array<QuantGroup>(rows * ceil_div(columns, kTileK))};
}

ExpertOrders lay_out_orders(Layout& layout, int64_t pairs, int64_t tasks) {
  return {
      .row = layout.array<int32_t>(pairs), .weight = layout.array<float>(pairs), .tasks = layout.array<RowTask>(tasks)};
}

ExpertRoom lay_out_expert_room(Layout& layout, const ExpertShape& e) {
  const int64_t columns = round_up(e.columns, kTileK);
  ExpertRoom room{.orders = layout.array<std::byte>(static_cast<int64_t>(order_bytes(e))),
                  .rows = std::min(e.rows * e.top_k, kActivationRows)};
  room.activations = layout.array<bf16>(room.rows * columns);
  if (!info(e.format).int8_activations) return room;
  room.x = lay_out_quantised_room(layout, e.rows, e.hidden);
  room.quantised = lay_out_quantised_room(layout, room.rows, columns);
  return room;
}

// Twice what is asked for is enough: a block has room for a power of two queries. 32 MiB of values keep a device busy,
// and stay in its cache.
AttentionRoom lay_out_attention_room(Layout& layout, const StepShape& shape) {
  const GroupedHeads& g = shape.attention;
  const int64_t asked = 2ll * shape.rows * g.heads * ceil_div(shape.context, kKvSpan);
  const int64_t most = (32ll << 20) / (g.head_dim * static_cast<int64_t>(sizeof(float)));
  AttentionRoom room{.pairs = round_up(std::clamp<int64_t>(asked, 1, most), kSpanQueries)};
  room.states = layout.array<SoftmaxState>(room.pairs);
  room.values = layout.array<float>(room.pairs * g.head_dim);
  for (SoftmaxState*& carried : room.carried_states) carried = layout.array<SoftmaxState>(kSpanQueries);
  for (float*& carried : room.carried_values) carried = layout.array<float>(int64_t{kSpanQueries} * g.head_dim);
  return room;
}

namespace {
// At most: with DeepSeek's dims 17 MiB of parts, 16 MiB of scores, and 47 MiB of what is expanded. There may be more
// of them, wave by wave.
constexpr int64_t kLatentParts = 8192, kIndexScores = 1 << 22, kExpandedRows = 16384;
constexpr int kExpandedHeads = 32;
}  // namespace

int expanded_heads(const LatentHeads& m, int rows) {
  return static_cast<int>(std::clamp<int64_t>(kExpandedRows / rows, 1, std::min(m.heads, kExpandedHeads)));
}
int expanded_spans(int heads) { return static_cast<int>(std::max<int64_t>(1, kExpandedRows / (kKvSpan * heads))); }

LatentRoom lay_out_latent_room(Layout& layout, std::byte* memory, const StepShape& shape) {
  const LatentHeads& m = shape.latent;
  LatentRoom room;
  if (!m.heads) return room;
  Layout spans(memory), index(memory), expanded(memory);
  const int seen = m.top_k ? std::min(shape.context, m.top_k) : shape.context;  // keys of a row
  const int64_t parts = std::clamp<int64_t>(int64_t{shape.rows} * m.heads * ceil_div(seen, kKvSpan), m.heads,
                                            std::max<int64_t>(kLatentParts, m.heads));
  room.spans = {.parts = parts,
                .states = spans.array<SoftmaxState>(parts),
                .values = spans.array<float>(parts * m.kv_rank),
                .carried_states = spans.array<SoftmaxState>(m.heads),
                .carried = spans.array<float>(static_cast<int64_t>(m.heads) * m.kv_rank)};
  if (m.top_k) {
    const int64_t row = round_up(shape.context, 2 * kKvBlock),
                  scores = std::clamp(shape.rows * row, row, std::max(kIndexScores, row));
    room.index = {.scores_count = scores, .scores = index.array<float>(scores)};
  }
  // Of queries and of keys, each with one head: as many heads as expanded_heads says for any number of rows.
  const int64_t rows = std::min(static_cast<int64_t>(std::min(shape.rows, kMaxExpandedRows)) * m.heads, kExpandedRows),
                keys = std::min(round_up(shape.context, kKvSpan) * m.heads, kExpandedRows);
  const int64_t up = static_cast<int64_t>(std::min(m.heads, kExpandedHeads)) * (m.nope_dim + m.value_dim) * m.kv_rank;
  room.expanded = {.q = expanded.array<float>(rows * m.head_dim()),
                   .queries = expanded.array<bf16>(rows * m.head_dim()),
                   .up = expanded.array<bf16>(up),
                   .expanded = expanded.array<bf16>(keys * (m.head_dim() + m.value_dim)),
                   .states = expanded.array<SoftmaxState>(rows),
                   .sums = expanded.array<float>(rows * m.value_dim)};
  layout.array<std::byte>(static_cast<int64_t>(std::max({spans.bytes(), index.bytes(), expanded.bytes()})));
  return room;
}

CudaScratch lay_out_cuda(Layout& layout, std::byte* memory, const StepShape& shape) {
  CudaScratch s;
  Layout inputs(memory);
  if (shape.int8_columns) s.inputs = lay_out_quantised_room(inputs, shape.rows, shape.int8_columns);
  Layout experts(memory);
  if (shape.experts.columns) s.experts = lay_out_expert_room(experts, shape.experts);
  Layout latent;
  s.latent = lay_out_latent_room(latent, memory, shape);
  Layout leaving(memory);
  if (shape.experts.experts) s.leaving = leaving.array<bf16>(kWaveRows * round_up(shape.experts.hidden, kTileK));
  Layout attention(memory);
  if (shape.attention.heads) s.attention = lay_out_attention_room(attention, shape);
  layout.array<std::byte>(static_cast<int64_t>(
      std::max({attention.bytes(), experts.bytes(), latent.bytes(), leaving.bytes(), inputs.bytes()})));
  return s;
}

PinnedScratch lay_out_pinned(Layout& layout, const StepShape& shape) {
  PinnedScratch s;
  if (shape.experts.columns) {
    s.rows_of_expert = layout.array<int>(shape.experts.experts);
    s.orders.bytes = std::max<size_t>(2 * order_bytes(shape.experts), 1 << 20);
    s.orders.at = layout.array<std::byte>(static_cast<int64_t>(s.orders.bytes));
  }
  if (shape.rows) s.embedded = layout.array<bf16>(kEmbeddedBytes / static_cast<int64_t>(sizeof(bf16)));
  const int64_t rows = std::min(shape.experts.rows, kWaveRows);
  // One half is filled while the other is read.
  if (shape.experts.experts)
    s.sums.bytes = static_cast<size_t>(2 * rows * round_up(shape.experts.hidden, 8)) * sizeof(double);
  s.sums.at = layout.array<std::byte>(static_cast<int64_t>(s.sums.bytes));
  return s;
}

size_t cuda_reserve_bytes(const StepShape& largest, int) {
  Layout device, pinned;
  lay_out_cuda(device, nullptr, largest);
  lay_out_pinned(pinned, largest);
  return device.bytes() + pinned.bytes();
}

}  // namespace kt
