// DeepSeek sparse attention: the lightning indexer scores all keys of a row, and the row attends to the best top_k.

#include <cmath>
#include <utility>
#include <vector>

#include "kernels/top_keys.h"
#include "runtime/base/error.h"
#include "runtime/model/mla_block.h"

namespace kt {
namespace {

constexpr int kPagesPerTask = 16;  // of one query's index scores

// Rotated queries of the indexer, and its heads' weights with both scales.
void index_queries(const MlaBlock& b) {
  const IndexerSpec& index = *b.m.indexer;
  const int64_t stride = static_cast<int64_t>(index.heads) * index.head_dim;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(stride)));
  float* q = b.room.index_q.as<float>();
  b.t.kernels.matmul(latent_queries(b), b.w.index_q, q, stride);
  b.t.kernels.split(b.rows, 1, [&](int first, int last) {
    for (int r = first; r < last; ++r) {
      for (int h = 0; h < index.heads; ++h) {
        b.ops.rope(q + r * stride + static_cast<int64_t>(h) * index.head_dim, b.cosines(r), b.sines(r),
                   b.m.rope.dims / 2);
        b.down(r)[b.room.index_weights_at + h] *= scale;
      }
      to_bf16_row(b.ops, q + r * stride, stride, b.room.index_q16.as<bf16>() + r * stride);
    }
  });
}

// Scores of pages [first, last) of a token's keys into scores[64 * page].
void score_pages(const MlaBlock& b, int row, int first, int last, float* dots, float* scores) {
  const IndexerSpec& index = *b.m.indexer;
  const Rows q{.data = b.room.index_q16.as<bf16>() + static_cast<int64_t>(row) * index.heads * index.head_dim,
               .stride = index.head_dim,
               .count = index.heads};
  for (int page = first; page < last; ++page) {
    const bf16* keys = b.page(b.tokens[row].blocks[page]) + latent_elements(b.m);
    const PackedMatrix matrix{.n = kKvBlock, .k = index.head_dim, .data = reinterpret_cast<const std::byte*>(keys)};
    b.ops.matmul(q, matrix, 0, matrix.panels(), dots, kKvBlock);
    b.ops.index_scores(dots, kKvBlock, b.down(row) + b.room.index_weights_at, index.heads, kKvBlock,
                       scores + static_cast<int64_t>(page) * kKvBlock);
  }
}

}  // namespace

// As many rows at a time as there is room for their scores.
void pick_keys(const MlaBlock& b) {
  std::vector<int> rows;
  for (int r = 0; r < b.rows; ++r)
    if (b.sparse(r)) rows.push_back(r);
  if (rows.empty()) return;
  index_queries(b);

  struct Piece {
    int row, first, last;  // pages
    float* scores;
  };
  const int64_t room = index_score_room(b.t.config);
  for (size_t next = 0; next < rows.size();) {
    std::vector<Piece> pieces;
    std::vector<std::pair<int, float*>> scored;
    for (int64_t used = 0; next < rows.size(); ++next) {
      const int pages = b.tokens[rows[next]].position / kKvBlock + 1;
      const int64_t size = static_cast<int64_t>(pages) * kKvBlock;
      if (size > room)
        fail(kExitPeerLost, "a token at position {} exceeds the model's context of {}", b.tokens[rows[next]].position,
             b.t.config.max_context);
      if (used + size > room) break;
      float* scores = b.room.index_scores.as<float>() + used;
      used += size;
      scored.push_back({rows[next], scores});
      for (int p = 0; p < pages; p += kPagesPerTask)
        pieces.push_back({rows[next], p, std::min(pages, p + kPagesPerTask), scores});
    }
    run_slots(b.t.kernels.pool, static_cast<int64_t>(pieces.size()), [&](int64_t i, int64_t slot) {
      score_pages(b, pieces[i].row, pieces[i].first, pieces[i].last, slot_of(b.t, slot).scores, pieces[i].scores);
    });
    run_slots(b.t.kernels.pool, static_cast<int64_t>(scored.size()), [&](int64_t i, int64_t slot) {
      const auto [row, scores] = scored[i];
      top_keys(scores, b.tokens[row].position + 1, b.m.indexer->top_k, b.picked(row),
               b.room.ranks[static_cast<size_t>(slot)]);
    });
  }
}

}  // namespace kt
