// Latent attention around its attending: norms of latents, queries through their heads' key projections, sums through
// the value projections.

#include <algorithm>
#include <cstring>

#include "kernels/cpu/latent.h"

namespace kt {
namespace {

constexpr float kLatentEps = 1e-6f;  // of the latents' norms, in the releases' code whatever rms_norm_eps says

// Into the packed matrix of a page's index keys, as output `offset`.
void store_index_key(const bf16* key, int dim, int offset, bf16* keys) {
  bf16* panel = keys + static_cast<int64_t>(offset / kPanel) * kPanel * dim;
  for (int i = 0; i < dim; i += 2)
    std::memcpy(panel + static_cast<int64_t>(i) * kPanel + 2 * (offset % kPanel), key + i, 2 * sizeof(bf16));
}

}  // namespace

void CpuDevice::latents(const LatentLayer& l, RowRange rows, const LatentRows& projected, const Mat<bf16>& q_latent) {
  const LatentHeads& m = l.heads;
  run_slots(k_.pool, rows.count, [&](int64_t i, int64_t slot) {
    const int r = rows.first + static_cast<int>(i), half = batch_->half();
    const int64_t place = batch_->places[r];
    bf16* const page = l.pages.page(place / kKvBlock);
    k_.ops.rms_norm(projected.q.row(i), l.q_norm, kLatentEps, m.q_rank, q_latent.row(i));
    float* kv = projected.kv.row(i);
    k_.ops.head_norm(kv, l.kv_norm, kLatentEps, m.kv_rank);
    k_.ops.rope_pairs(kv + m.kv_rank, batch_->cosines_of(r), batch_->sines_of(r), half);
    to_bf16_row(k_.ops, kv, m.cached_dim(), page + place % kKvBlock * m.cached_dim());
    if (!m.top_k) return;
    float* key = projected.index_key.row(i);
    bf16* rounded = slot_of(m, scratch_.latent, slot).weights;
    k_.ops.layer_norm(key, l.index_norm, l.index_bias, kLatentEps, m.index_dim);
    k_.ops.rope(key, batch_->cosines_of(r), batch_->sines_of(r), half);
    to_bf16_row(k_.ops, key, m.index_dim, rounded);
    store_index_key(rounded, m.index_dim, static_cast<int>(place % kKvBlock), page + m.latent_elements());
  });
}

// Tasks: some rows of one head.
void CpuDevice::absorb(const LatentLayer& l, RowRange rows, const Mat<float>& q, const Mat<bf16>& query) {
  const LatentHeads& m = l.heads;
  run_slots(k_.pool, ceil_div(rows.count, kHeadRows) * m.heads, [&](int64_t i, int64_t slot) {
    const LatentSlot s = slot_of(m, scratch_.latent, slot);
    const int64_t h = i % m.heads;
    const int first = static_cast<int>(i / m.heads) * kHeadRows, count = std::min(kHeadRows, rows.count - first);
    const auto latent = [&](int r) { return query.row(first + r) + h * m.cached_dim(); };
    for (int r = 0; r < count; ++r) {
      float* mine = q.row(first + r) + h * m.head_dim();
      const int row = rows.first + first + r;
      k_.ops.rope_pairs(mine + m.nope_dim, batch_->cosines_of(row), batch_->sines_of(row), batch_->half());
      to_bf16_row(k_.ops, mine, m.nope_dim, s.weights + static_cast<int64_t>(r) * m.nope_dim);
      to_bf16_row(k_.ops, mine + m.nope_dim, m.rope_dim, latent(r) + m.kv_rank);
    }
    k_.ops.matmul({.data = s.weights, .stride = m.nope_dim, .count = count}, l.key_up[h], 0, l.key_up[h].panels(),
                  s.scores, m.kv_rank);
    for (int r = 0; r < count; ++r)
      to_bf16_row(k_.ops, s.scores + static_cast<int64_t>(r) * m.kv_rank, m.kv_rank, latent(r));
  });
}

void CpuDevice::value_up(const LatentLayer& l, const Mat<bf16>& sums, const Mat<bf16>& out) {
  const LatentHeads& m = l.heads;
  run_slots(k_.pool, ceil_div(sums.rows, kHeadRows) * m.heads, [&](int64_t i, int64_t slot) {
    const LatentSlot s = slot_of(m, scratch_.latent, slot);
    const int64_t h = i % m.heads;
    const int first = static_cast<int>(i / m.heads) * kHeadRows, count = std::min(kHeadRows, sums.rows - first);
    k_.ops.matmul({.data = sums.row(first) + h * m.kv_rank, .stride = sums.ld, .count = count}, l.value_up[h], 0,
                  l.value_up[h].panels(), s.scores, m.value_dim);
    for (int r = 0; r < count; ++r)
      to_bf16_row(k_.ops, s.scores + static_cast<int64_t>(r) * m.value_dim, m.value_dim,
                  out.row(first + r) + h * m.value_dim);
  });
}

}  // namespace kt
