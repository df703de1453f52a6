#include <algorithm>

#include "kernels/cpu/latent.h"

namespace kt {
namespace {

// Elements of a LatentSlot.
struct SlotSizes {
  size_t packed, scores, weights;

  size_t bytes() const { return packed * sizeof(bf16) + scores * sizeof(float) + weights * sizeof(bf16); }
};
SlotSizes slot_sizes(const LatentHeads& m) {
  const int64_t attend = static_cast<int64_t>(kRunQueries) * kKvSpan;
  const int64_t index = static_cast<int64_t>(m.index_heads) * kKvBlock;
  const int64_t heads = static_cast<int64_t>(kHeadRows) * std::max(m.kv_rank, m.value_dim);
  const int64_t weights = static_cast<int64_t>(kHeadRows) * m.nope_dim;
  return {.packed = static_cast<size_t>(kKvSpan) * m.cached_dim(),
          .scores = static_cast<size_t>(std::max({attend, heads, index})),
          .weights = static_cast<size_t>(std::max({attend, weights, static_cast<int64_t>(m.index_dim)}))};
}

}  // namespace

LatentSlot slot_of(const LatentHeads& m, const LatentScratch& scratch, int64_t slot) {
  const SlotSizes s = slot_sizes(m);
  std::byte* at = scratch.slots + static_cast<size_t>(slot) * scratch.slot_bytes;
  auto* scores = reinterpret_cast<float*>(at + s.packed * sizeof(bf16));
  return {reinterpret_cast<bf16*>(at), scores, reinterpret_cast<bf16*>(scores + s.scores)};
}

// With an indexer no row sees more than its top_k keys, but the indexer scores them all.
LatentScratch lay_out_latent(Layout& layout, const StepShape& shape, int threads) {
  const LatentHeads& m = shape.latent;
  LatentScratch s;
  s.slot_bytes = static_cast<size_t>(round_up(
      static_cast<int64_t>(std::max(slot_sizes(m).bytes(), head_slot_bytes(m, std::min(shape.rows, kMaxExpandedRows)))),
      64));
  s.slots = layout.array<std::byte>(static_cast<int64_t>(s.slot_bytes) * threads);
  const int keys = m.top_k ? std::min(shape.context, m.top_k) : shape.context;
  s.packed = layout.array<bf16>(ceil_div(keys, kKvSpan) * kKvSpan * (m.cached_dim() + m.kv_rank));
  if (!m.top_k) return s;
  s.index_room = std::max<int64_t>(1 << 20, round_up(shape.context, kKvBlock));
  s.index_scores = layout.array<float>(s.index_room);
  s.ranks = layout.array<uint32_t>(shape.context * static_cast<int64_t>(threads));
  return s;
}

}  // namespace kt
