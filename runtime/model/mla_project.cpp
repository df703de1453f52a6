// The projections of latent attention: down to latents, queries through their heads' key projections, sums through the
// value projections, and the output projection.

#include <cstring>

#include "runtime/model/mla_block.h"

namespace kt {
namespace {

// Into the packed matrix of a page's index keys, as output `offset`.
void store_index_key(const bf16* key, int dim, int offset, bf16* keys) {
  bf16* panel = keys + static_cast<int64_t>(offset / kPanel) * kPanel * dim;
  for (int i = 0; i < dim; i += 2)
    std::memcpy(panel + static_cast<int64_t>(i) * kPanel + 2 * (offset % kPanel), key + i, 2 * sizeof(bf16));
}

// Norm and rope of the index key, and into the cache.
void finish_index_key(const MlaBlock& b, int row) {
  const IndexerSpec& index = *b.m.indexer;
  float* key = b.down(row) + b.room.index_k_at;
  b.ops.layer_norm(key, b.w.index_norm.data(), b.w.index_bias.data(), kLatentEps, index.head_dim);
  b.ops.rope(key, b.cosines(row), b.sines(row), b.m.rope.dims / 2);
  bf16* rounded =
      b.room.index_q16.as<bf16>() + static_cast<int64_t>(row) * index.heads * index.head_dim;  // not in use yet
  to_bf16_row(b.ops, key, index.head_dim, rounded);
  store_index_key(rounded, index.head_dim, static_cast<int>(b.places[row] % kKvBlock),
                  b.page(b.places[row] / kKvBlock) + latent_elements(b.m));
}

}  // namespace

void project_down(const MlaBlock& b) {
  const Trunk& t = b.t;
  const Rows x{.data = t.h.as<bf16>() + b.begin * t.stride.h, .stride = t.stride.h, .count = b.rows};
  t.kernels.matmul(x, b.w.q_a, b.down(0) + b.room.q_at, b.room.down_stride);
  t.kernels.matmul(x, b.w.kv_a, b.down(0) + b.room.kv_at, b.room.down_stride);
  if (b.m.indexer) {
    t.kernels.matmul(x, b.w.index_k, b.down(0) + b.room.index_k_at, b.room.down_stride);
    t.kernels.matmul(x, b.w.index_weights, b.down(0) + b.room.index_weights_at, b.room.down_stride);
  }
  t.kernels.split(b.rows, 1, [&](int first, int last) {
    for (int r = first; r < last; ++r) {
      b.ops.rms_norm(b.down(r) + b.room.q_at, b.w.q_norm.data(), kLatentEps, b.m.q_rank,
                     b.room.q_latent.as<bf16>() + static_cast<int64_t>(b.kept + r) * b.m.q_rank);
      float* kv = b.down(r) + b.room.kv_at;
      b.ops.head_norm(kv, b.w.kv_norm.data(), kLatentEps, b.m.kv_rank);
      b.ops.rope_pairs(kv + b.m.kv_rank, b.cosines(r), b.sines(r), b.m.rope.dims / 2);
      to_bf16_row(b.ops, kv, b.m.cached_dim(),
                  b.page(b.places[r] / kKvBlock) + b.places[r] % kKvBlock * b.m.cached_dim());
      if (b.m.indexer) finish_index_key(b, r);
    }
  });
}

void absorb_queries(const MlaBlock& b) {
  const MlaSpec& m = b.m;
  const int64_t q_stride = round_up(static_cast<int64_t>(b.heads) * m.head_dim(), kPanel);
  b.t.kernels.matmul(latent_queries(b), b.w.q_b, b.room.q.as<float>(), q_stride);
  const int parts = static_cast<int>(ceil_div(b.rows, kAbsorbRows));
  run_slots(b.t.kernels.pool, static_cast<int64_t>(parts) * b.heads, [&](int64_t i, int64_t slot) {
    const MlaSlot s = slot_of(b.t, slot);
    const int64_t h = i % b.heads;
    const int first = static_cast<int>(i / b.heads) * kAbsorbRows, count = std::min(kAbsorbRows, b.rows - first);
    const auto query = [&](int r) {
      return b.room.query.as<bf16>() + (first + r) * b.query_stride() + h * m.cached_dim();
    };
    for (int r = 0; r < count; ++r) {
      float* q = b.room.q.as<float>() + (first + r) * q_stride + h * m.head_dim();
      b.ops.rope_pairs(q + m.nope_dim, b.cosines(first + r), b.sines(first + r), m.rope.dims / 2);
      to_bf16_row(b.ops, q, m.nope_dim, s.weights + static_cast<int64_t>(r) * m.nope_dim);
      to_bf16_row(b.ops, q + m.nope_dim, m.rope.dims, query(r) + m.kv_rank);
    }
    b.ops.matmul({.data = s.weights, .stride = m.nope_dim, .count = count}, b.w.key_up[h], 0, b.w.key_up[h].panels(),
                 s.scores, m.kv_rank);
    for (int r = 0; r < count; ++r)
      to_bf16_row(b.ops, s.scores + static_cast<int64_t>(r) * m.kv_rank, m.kv_rank, query(r));
  });
}

void project_up(const MlaBlock& b) {
  const MlaSpec& m = b.m;
  const int64_t stride = static_cast<int64_t>(b.heads) * m.value_dim;
  float* values = b.room.values.as<float>();
  b.t.kernels.pool.run(b.heads, [&](int64_t h) {
    const Rows x{.data = b.room.mixed.as<bf16>() + h * m.kv_rank,
                 .stride = static_cast<int64_t>(b.heads) * m.kv_rank,
                 .count = b.rows};
    b.ops.matmul(x, b.w.value_up[h], 0, b.w.value_up[h].panels(), values + h * m.value_dim, stride);
  });
  bf16* out = b.room.out.as<bf16>();
  b.t.kernels.split(b.rows, 1, [&](int first, int last) {
    for (int64_t r = first; r < last; ++r) to_bf16_row(b.ops, values + r * stride, stride, out + r * stride);
  });
}

void project_out(const MlaBlock& b) {
  const Rows out{
      .data = b.room.out.as<bf16>(), .stride = static_cast<int64_t>(b.heads) * b.m.value_dim, .count = b.rows};
  b.t.kernels.matmul_add(out, b.w.out, b.m.value_dim, nullptr, b.t.y.as<double>() + b.begin * b.t.stride.y,
                         b.t.stride.y);
}

}  // namespace kt
