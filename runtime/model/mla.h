#pragma once

#include <cstddef>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/ops.h"
#include "runtime/model/config.h"
#include "runtime/model/shares.h"

namespace kt {

// Latent attention takes a step's rows in blocks of this size, so that what it keeps per row and head stays small: at
// 128 heads a row of queries in latent form is 144 KiB.
inline constexpr int kMlaRows = 256;
// Rows in expanded form are taken head by head, in larger blocks: the more, the less their keys' expansion weighs.
inline constexpr int kMlaExpandedRows = 2048;
// Only whole blocks of a prompt, of so many tokens from its beginning on, are computed in expanded form.
inline constexpr int kMlaPromptBlock = 256;

// Memory of mix_mla, used by one layer after the other.
struct MlaRoom {
  MlaRoom(const ModelConfig& config, const TrunkShare& share, int max_rows, ThreadPool& pool, int numa_node);

  // Columns of a row of `down`, in this order; each a multiple of 16.
  int64_t q_at = 0, kv_at = 0, index_k_at = 0, index_weights_at = 0, down_stride = 0;

  // Per row of a block:
  Buffer down;                // f32 projections of the normed rows, see above
  Buffer q_latent;            // bf16 normed latent of the queries; of larger blocks too
  Buffer q;                   // f32 (heads, head_dim)
  Buffer query;               // bf16 (heads, cached_dim): in latent form, then the rotated part
  Buffer mixed;               // bf16 (heads, kv_rank): weighted sums of latents
  Buffer values;              // f32 (heads, value_dim)
  Buffer out;                 // bf16 (heads, value_dim); of larger blocks too
  Buffer index_q, index_q16;  // f32, bf16 (index heads, index head_dim)
  Buffer keys;                // int32 (top_k): positions that the indexer picked

  Buffer index_scores;  // f32: of as many rows at a time as fit

  // Keys and values of a sequence as matrices, span by span of kKvSpan positions: (kKvSpan, cached_dim), then the
  // latents transposed, (kv_rank, kKvSpan). Grows with the longest prompt.
  Buffer packed;
  int numa_node = -1;
  void make_packed(const MlaSpec& m, int64_t spans, ThreadPool& pool);
  bf16* packed_keys(const MlaSpec& m, int64_t span) const {
    return packed.as<bf16>() + span * kKvSpan * (m.cached_dim() + m.kv_rank);
  }
  bf16* packed_values(const MlaSpec& m, int64_t span) const {
    return packed_keys(m, span) + static_cast<int64_t>(kKvSpan) * m.cached_dim();
  }

  // One for each thread:
  std::vector<Buffer> slots;                 // see MlaSlot in mla_block.h, HeadSlot in mla_expand.cpp
  std::vector<std::vector<uint32_t>> ranks;  // of top_keys
};
// What mix_mla takes for sequences of up to `context` tokens: an MlaRoom, and its part of the trunk's SpanRoom.
size_t mla_room_bytes(const ModelConfig& config, const TrunkShare& share, int max_rows, int threads, int context);

}  // namespace kt
