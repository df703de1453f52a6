#include <algorithm>

#include "runtime/model/mla_block.h"

namespace kt {
namespace {

// Elements of an MlaSlot.
struct SlotSizes {
  size_t packed, scores, weights;
};
SlotSizes slot_sizes(const MlaSpec& m) {
  const int64_t index = m.indexer ? static_cast<int64_t>(m.indexer->heads) * kKvBlock : 0;
  const int64_t attend = static_cast<int64_t>(kRunQueries) * kKvSpan;
  return {.packed = static_cast<size_t>(kKvSpan) * m.cached_dim(),
          .scores = static_cast<size_t>(std::max({attend, static_cast<int64_t>(kAbsorbRows) * m.kv_rank, index})),
          .weights = static_cast<size_t>(std::max(attend, static_cast<int64_t>(kAbsorbRows) * m.nope_dim))};
}
// Of either form: a thread is at work on one at a time.
size_t slot_bytes(const MlaSpec& m, int max_rows) {
  const SlotSizes s = slot_sizes(m);
  return std::max(s.packed * sizeof(bf16) + s.scores * sizeof(float) + s.weights * sizeof(bf16),
                  head_slot_bytes(m, std::min(max_rows, kMlaExpandedRows)));
}

struct RoomBytes {
  size_t down, q_latent, q, query, mixed, values, out, index_q, index_q16, keys, index_scores;
};
struct DownColumns {
  int64_t q, kv, index_k, index_weights;  // widths, in this order
};
DownColumns down_columns(const MlaSpec& m) {
  const IndexerSpec index = m.indexer.value_or(IndexerSpec{});
  return {round_up(m.q_rank, kPanel), round_up(m.cached_dim(), kPanel), round_up(index.head_dim, kPanel),
          round_up(index.heads, kPanel)};
}
RoomBytes room_bytes(const ModelConfig& config, const TrunkShare& share, int max_rows) {
  const MlaSpec& m = config.mla;
  const IndexerSpec index = m.indexer.value_or(IndexerSpec{});
  const int64_t heads = share.heads.size(), rows = std::min(max_rows, kMlaRows);
  const int64_t kept = std::min(max_rows, kMlaExpandedRows);
  const auto bytes = [&](int64_t columns, size_t size) { return static_cast<size_t>(rows * columns) * size; };
  const DownColumns d = down_columns(m);
  return {.down = bytes(d.q + d.kv + d.index_k + d.index_weights, 4),
          .q_latent = static_cast<size_t>(kept) * m.q_rank * 2,
          .q = bytes(round_up(heads * m.head_dim(), kPanel), 4),
          .query = bytes(heads * m.cached_dim(), 2),
          .mixed = bytes(heads * m.kv_rank, 2),
          .values = bytes(heads * m.value_dim, 4),
          .out = static_cast<size_t>(kept * heads) * m.value_dim * 2,
          .index_q = bytes(static_cast<int64_t>(index.heads) * index.head_dim, 4),
          .index_q16 = bytes(static_cast<int64_t>(index.heads) * index.head_dim, 2),
          .keys = bytes(index.top_k, 4),
          .index_scores = static_cast<size_t>(index_score_room(config)) * 4};
}

// The packed keys grow in steps.
size_t packed_bytes(const MlaSpec& m, int64_t spans) {
  constexpr int64_t kSpansAtOnce = 16;
  return static_cast<size_t>(round_up(spans, kSpansAtOnce) * kKvSpan) * (m.cached_dim() + m.kv_rank) * sizeof(bf16);
}

}  // namespace

int64_t index_score_room(const ModelConfig& c) {
  return c.mla.indexer ? std::max<int64_t>(1 << 20, round_up(c.max_context, kKvBlock)) : 0;
}

MlaSlot slot_of(const Trunk& t, int64_t slot) {
  const SlotSizes s = slot_sizes(t.config.mla);
  std::byte* at = t.mla->slots[static_cast<size_t>(slot)].bytes();
  auto* scores = reinterpret_cast<float*>(at + s.packed * sizeof(bf16));
  return {reinterpret_cast<bf16*>(at), scores, reinterpret_cast<bf16*>(scores + s.scores)};
}

size_t mla_room_bytes(const ModelConfig& config, const TrunkShare& share, int max_rows, int threads, int context) {
  const MlaSpec& m = config.mla;
  const RoomBytes b = room_bytes(config, share, max_rows);
  size_t bytes = 0;
  for (size_t size :
       {b.down, b.q_latent, b.q, b.query, b.mixed, b.values, b.out, b.index_q, b.index_q16, b.keys, b.index_scores})
    bytes += Buffer::footprint(size);
  const size_t ranks = m.indexer ? static_cast<size_t>(context) * sizeof(uint32_t) : 0;
  const int keys = m.indexer ? std::min(context, m.indexer->top_k) : context;
  return bytes + Buffer::footprint(packed_bytes(m, ceil_div(keys, kKvSpan))) +
         static_cast<size_t>(threads) * (Buffer::footprint(slot_bytes(m, max_rows)) + ranks) +
         span_room_bytes(threads, ceil_div(keys, kKvSpan), kRunQueries, m.kv_rank);
}

MlaRoom::MlaRoom(const ModelConfig& config, const TrunkShare& share, int max_rows, ThreadPool& pool, int numa_node) {
  const RoomBytes b = room_bytes(config, share, max_rows);
  const DownColumns d = down_columns(config.mla);
  kv_at = d.q;
  index_k_at = kv_at + d.kv;
  index_weights_at = index_k_at + d.index_k;
  down_stride = index_weights_at + d.index_weights;
  const auto make = [&](size_t bytes) { return Buffer(bytes, numa_node, pool); };
  down = make(b.down);
  q_latent = make(b.q_latent);
  q = make(b.q);
  query = make(b.query);
  mixed = make(b.mixed);
  values = make(b.values);
  out = make(b.out);
  index_q = make(b.index_q);
  index_q16 = make(b.index_q16);
  keys = make(b.keys);
  index_scores = make(b.index_scores);
  for (int i = 0; i < pool.size(); ++i) slots.push_back(make(slot_bytes(config.mla, max_rows)));
  ranks.resize(static_cast<size_t>(pool.size()));
  this->numa_node = numa_node;
}

void MlaRoom::make_packed(const MlaSpec& m, int64_t spans, ThreadPool& pool) {
  const size_t bytes = packed_bytes(m, spans);
  if (packed.size() >= bytes) return;
  packed = Buffer();  // first: there may be no room for both
  packed = Buffer(bytes, numa_node, pool);
}

}  // namespace kt
