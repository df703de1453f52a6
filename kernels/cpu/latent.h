#pragma once

// What the files of latent attention on the CPU share.

#include "kernels/cpu/device.h"

namespace kt {

inline constexpr int kHeadRows = 64;  // of one head per task

LatentSlot slot_of(const LatentHeads& heads, const LatentScratch& scratch, int64_t slot);

// Whether the indexer picks the keys of a row; up to top_k it would take them all.
inline bool picks(const LatentHeads& heads, const Batch& batch, int row) {
  return heads.top_k && batch.positions[row] >= heads.top_k;
}

// Keys and values of a span of a packed sequence.
inline bf16* packed_keys(const LatentHeads& m, const LatentScratch& scratch, int64_t span) {
  return scratch.packed + span * kKvSpan * (m.cached_dim() + m.kv_rank);
}
inline bf16* packed_values(const LatentHeads& m, const LatentScratch& scratch, int64_t span) {
  return packed_keys(m, scratch, span) + static_cast<int64_t>(kKvSpan) * m.cached_dim();
}

}  // namespace kt
