// DeepSeek sparse attention: the lightning indexer scores all keys of a row, and the row attends to the best top_k.

#include <cmath>

#include "kernels/cpu/latent.h"
#include "kernels/top_keys.h"

namespace kt {
namespace {

constexpr int kPagesPerTask = 16;  // of one query's index scores

}  // namespace

// As many rows at a time as there is room for their scores.
void CpuDevice::pick(const LatentLayer& l, RowRange rows, const Mat<float>& q, const Mat<bf16>& q16,
                     const Mat<float>& weights, const Mat<int32_t>& picked) {
  const LatentHeads& m = l.heads;
  const int64_t columns = static_cast<int64_t>(m.index_heads) * m.index_dim;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(columns)));
  k_.split(rows.count, 1, [&](int first, int last) {
    for (int i = first; i < last; ++i) {
      const int r = rows.first + i;
      for (int h = 0; h < m.index_heads; ++h) {
        k_.ops.rope(q.row(i) + static_cast<int64_t>(h) * m.index_dim, batch_->cosines_of(r), batch_->sines_of(r),
                    batch_->half());
        weights.row(i)[h] *= scale;
      }
      to_bf16_row(k_.ops, q.row(i), columns, q16.row(i));
    }
  });

  const auto score_pages = [&](const IndexPiece& piece, float* dots) {
    const BatchSlice& slice = batch_->slices[batch_->slice_of[rows.first + piece.row]];
    const Rows queries{.data = q16.row(piece.row), .stride = m.index_dim, .count = m.index_heads};
    for (int page = piece.first; page < piece.last; ++page) {
      const bf16* keys = l.pages.page(batch_->blocks_of(slice)[page]) + m.latent_elements();
      const PackedMatrix matrix{.n = kKvBlock, .k = m.index_dim, .data = reinterpret_cast<const std::byte*>(keys)};
      k_.ops.matmul(queries, matrix, 0, matrix.panels(), dots, kKvBlock);
      k_.ops.index_scores(dots, kKvBlock, weights.row(piece.row), m.index_heads, kKvBlock,
                          piece.scores + static_cast<int64_t>(page) * kKvBlock);
    }
  };
  for (int next = 0; next < rows.count;) {
    pieces_.clear();
    scored_.clear();
    for (int64_t used = 0; next < rows.count; ++next) {
      const int position = batch_->positions[rows.first + next];
      if (!picks(m, *batch_, rows.first + next)) continue;
      const int pages = position / kKvBlock + 1;
      const int64_t size = static_cast<int64_t>(pages) * kKvBlock;
      if (used + size > scratch_.latent.index_room) break;
      float* scores = scratch_.latent.index_scores + used;
      used += size;
      scored_.push_back({next, 0, position + 1, scores});
      for (int p = 0; p < pages; p += kPagesPerTask)
        pieces_.push_back({next, p, std::min(pages, p + kPagesPerTask), scores});
    }
    run_slots(k_.pool, static_cast<int64_t>(pieces_.size()),
              [&](int64_t i, int64_t slot) { score_pages(pieces_[i], slot_of(m, scratch_.latent, slot).scores); });
    run_slots(k_.pool, static_cast<int64_t>(scored_.size()), [&](int64_t i, int64_t slot) {
      const auto& [row, first, keys, scores] = scored_[i];
      top_keys(scores, keys, m.top_k, picked.row(row), scratch_.latent.ranks + slot * shape_.context);
    });
  }
}

}  // namespace kt
