// Latent attention on the emulated GPU: the bits of the CPU's specification.

#include <algorithm>
#include <numeric>

#include "kernels/format/bf16.h"
#include "tests/kernels/cuda_pair.h"

namespace kt {
namespace {

// Rows of one sequence: `count` of them from position `first` on.
struct Part {
  int first, count;
};

constexpr LatentHeads kSmall{
    .heads = 3, .q_rank = 64, .kv_rank = 96, .nope_dim = 32, .rope_dim = 32, .value_dim = 64, .scale = 0.3f};
// More than a block's columns of everything.
constexpr LatentHeads kWide{
    .heads = 2, .q_rank = 96, .kv_rank = 544, .nope_dim = 160, .rope_dim = 64, .value_dim = 160, .scale = 0.1f};
constexpr LatentHeads kMany{
    .heads = 17, .q_rank = 32, .kv_rank = 32, .nope_dim = 32, .rope_dim = 32, .value_dim = 32, .scale = 0.4f};
constexpr LatentHeads sparse(LatentHeads m, int heads, int dim, int top_k) {
  m.index_heads = heads, m.index_dim = dim, m.top_k = top_k;
  return m;
}

// bf16 matrices of a device's memory, one after the other.
struct Matrices {
  Both<std::byte> bytes;
  std::vector<PackedMatrix> cpu, gpu;

  static std::vector<std::byte> packed(int count, const PackedMatrix& shape, unsigned seed, float scale) {
    std::vector<std::byte> out(count * shape.bytes());
    for (int i = 0; i < count; ++i) {
      const std::vector<bf16> rows = normal_bf16(static_cast<size_t>(shape.n) * shape.k, seed + i, scale);
      for (int p = 0; p < shape.panels(); ++p)
        Bf16Format::pack(&rows[static_cast<size_t>(p) * kPanel * shape.k], shape.k,
                         std::min(kPanel, shape.n - p * kPanel), shape.k,
                         out.data() + i * shape.bytes() + p * shape.panel_bytes());
    }
    return out;
  }
  Matrices(const Pair& pair, int count, PackedMatrix shape, unsigned seed, float scale)
      : bytes(pair, packed(count, shape, seed, scale)), cpu(count, shape), gpu(count, shape) {
    for (int i = 0; i < count; ++i) {
      cpu[i].data = bytes.cpu() + i * shape.bytes();
      gpu[i].data = bytes.gpu() + i * shape.bytes();
    }
  }
};

// A layer, its cache and a batch on both devices.
struct Layer {
  LatentHeads m;
  int rows = 0, pages = 0;
  int64_t page_elements;
  Pair pair;
  Matrices q_b, key_up, value_up;
  Both<float> q_norm, kv_norm, index_norm, index_bias;
  Both<bf16> cache;

  static int pages_of(const std::vector<Part>& parts) {
    int n = 0;
    for (const Part& p : parts) n += static_cast<int>(ceil_div(p.first + p.count, kKvBlock));
    return n;
  }
  static float unit(int n) { return 1.0f / std::sqrt(static_cast<float>(n)); }

  Layer(const LatentHeads& heads, const std::vector<Part>& parts)
      : m(heads),
        pages(pages_of(parts)),
        page_elements(m.latent_elements() + static_cast<int64_t>(kKvBlock) * m.index_dim + 64),
        q_b(pair, 1, {.n = m.heads * m.head_dim(), .k = m.q_rank}, 1, unit(m.q_rank)),
        key_up(pair, m.heads, {.n = m.kv_rank, .k = m.nope_dim}, 20, unit(m.nope_dim)),
        value_up(pair, m.heads, {.n = m.value_dim, .k = m.kv_rank}, 30, unit(m.kv_rank)),
        q_norm(pair, normal_floats(m.q_rank, 2)),
        kv_norm(pair, normal_floats(m.kv_rank, 3)),
        index_norm(pair, normal_floats(m.index_dim, 4)),
        index_bias(pair, normal_floats(m.index_dim, 5)),
        cache(pair, normal_bf16(pages * page_elements, 6)) {
    Batch b;
    std::vector<int32_t> all(pages);
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), std::mt19937(7));
    int context = 0;
    for (const Part& p : parts) {
      const auto slice = static_cast<int32_t>(b.slices.size());
      BatchSlice s{.row = rows, .count = p.count, .first = p.first, .block = static_cast<int>(b.blocks.size())};
      for (int i = 0; i < ceil_div(p.first + p.count, kKvBlock); ++i) b.blocks.push_back(all[b.blocks.size()]);
      for (int position = p.first; position < p.first + p.count; ++position, ++rows) {
        b.slice_of.push_back(slice);
        b.positions.push_back(position);
        b.places.push_back(int64_t{b.blocks[s.block + position / kKvBlock]} * kKvBlock + position % kKvBlock);
      }
      b.slices.push_back(s);
      context = std::max(context, p.first + p.count);
    }
    for (int i = 0; i < m.rope_dim / 2; ++i) b.frequencies.push_back(std::pow(0.7, i));
    pair.reserve({.rows = rows, .context = context, .latent = m});
    pair.begin(b);
  }
  LatentLayer on(bool gpu) const {
    return {.heads = m,
            .pages = {gpu ? cache.gpu() : cache.cpu(), page_elements},
            .q_b = gpu ? &q_b.gpu[0] : &q_b.cpu[0],
            .key_up = gpu ? key_up.gpu.data() : key_up.cpu.data(),
            .value_up = gpu ? value_up.gpu.data() : value_up.cpu.data(),
            .q_norm = gpu ? q_norm.gpu() : q_norm.cpu(),
            .kv_norm = gpu ? kv_norm.gpu() : kv_norm.cpu(),
            .index_norm = gpu ? index_norm.gpu() : index_norm.cpu(),
            .index_bias = gpu ? index_bias.gpu() : index_bias.cpu()};
  }
  template <class T>
  Both<T> rows_of(int64_t columns) const {
    return Both<T>(pair, static_cast<size_t>(rows * columns));
  }
  Device& device(bool gpu) const { return gpu ? *pair.gpu : *pair.cpu; }
};
template <class T>
Mat<T> mat(const Both<T>& x, bool gpu, int rows, int64_t columns) {
  return {gpu ? x.gpu() : x.cpu(), columns, rows, static_cast<int>(columns)};
}

// ---- latents, queries and values of each head

void expect_latents(const LatentHeads& m, const std::vector<Part>& parts, int first) {
  const Layer l(m, parts);
  const int rows = l.rows - first;
  const Both<float> q(l.pair, normal_floats(static_cast<size_t>(rows) * m.q_rank, 11)),
      kv(l.pair, normal_floats(static_cast<size_t>(rows) * m.cached_dim(), 12)),
      key(l.pair, normal_floats(static_cast<size_t>(rows) * m.index_dim, 13, 2.0f));
  const Both<bf16> q_latent(l.pair, static_cast<size_t>(rows) * m.q_rank);
  for (bool gpu : {false, true})
    l.device(gpu).latents(l.on(gpu), {first, rows},
                          {.q = mat(q, gpu, rows, m.q_rank),
                           .kv = mat(kv, gpu, rows, m.cached_dim()),
                           .index_key = mat(key, gpu, rows, m.index_dim),
                           .index_weights = {}},
                          mat(q_latent, gpu, rows, m.q_rank));

  q_latent.expect_same("latents of queries");
  l.cache.expect_same("the cache");
}

void expect_heads(const LatentHeads& m, const std::vector<Part>& parts, int first) {
  const Layer l(m, parts);
  const int rows = l.rows - first;
  const int64_t q_columns = int64_t{m.heads} * m.head_dim(), query_columns = int64_t{m.heads} * m.cached_dim(),
                sums_columns = int64_t{m.heads} * m.kv_rank, out_columns = int64_t{m.heads} * m.value_dim;
  const Both<float> q(l.pair, normal_floats(static_cast<size_t>(rows * q_columns), 11));
  const Both<bf16> query(l.pair, static_cast<size_t>(rows * query_columns)),
      sums(l.pair, normal_bf16(static_cast<size_t>(rows * sums_columns), 12)),
      out(l.pair, static_cast<size_t>(rows * out_columns));
  for (bool gpu : {false, true}) {
    l.device(gpu).absorb(l.on(gpu), {first, rows}, mat(q, gpu, rows, q_columns), mat(query, gpu, rows, query_columns));
    l.device(gpu).value_up(l.on(gpu), mat(sums, gpu, rows, sums_columns), mat(out, gpu, rows, out_columns));
  }

  query.expect_same("absorbed queries");
  out.expect_same("values");
}

TEST(CudaLatent, NormsLatentsAndFillsTheCache) {
  Pair::in_every_schedule([] {
    expect_latents(kSmall, {{0, 1}}, 0);
    expect_latents(sparse(kSmall, 2, 64, 8), {{0, 5}, {70, 3}, {63, 2}}, 2);
  });
  expect_latents(sparse(kWide, 2, 160, 8), {{60, 70}}, 0);
}

TEST(CudaLatent, AbsorbsQueriesAndLiftsValues) {
  Pair::in_every_schedule([] {
    expect_heads(kSmall, {{9, 1}}, 0);
    expect_heads(kSmall, {{0, 16}, {100, 3}}, 2);
  });
  expect_heads(kWide, {{0, 4}, {9, 1}}, 0);
  expect_heads(kWide, {{0, 70}}, 1);
}

// ---- picking

struct Picking {
  const Layer& l;
  int rows;
  int64_t columns;
  Both<float> q, weights;
  Both<bf16> q16;
  Both<int32_t> picked;

  Picking(const Layer& layer, const std::vector<float>& queries)
      : l(layer),
        rows(l.rows),
        columns(int64_t{l.m.index_heads} * l.m.index_dim),
        q(l.pair, queries),
        weights(l.pair, normal_floats(static_cast<size_t>(rows) * l.m.index_heads, 12)),
        q16(l.pair, static_cast<size_t>(rows * columns)),
        picked(l.pair, std::vector<int32_t>(static_cast<size_t>(rows) * l.m.top_k, -1)) {
    for (bool gpu : {false, true})
      l.device(gpu).pick(l.on(gpu), {0, rows}, mat(q, gpu, rows, columns), mat(q16, gpu, rows, columns),
                         mat(weights, gpu, rows, l.m.index_heads), mat(picked, gpu, rows, l.m.top_k));
  }
};
void expect_picked(const Layer& l) {
  const LatentHeads& m = l.m;
  const int64_t columns = int64_t{m.index_heads} * m.index_dim;
  for (bool zeros : {false, true}) {  // all scores alike
    SCOPED_TRACE(zeros);
    const Picking p(l, zeros ? std::vector<float>(static_cast<size_t>(l.rows * columns))
                             : normal_floats(static_cast<size_t>(l.rows * columns), 11));
    p.picked.expect_same("picked positions");
  }
}

void expect_picked(const LatentHeads& m, const std::vector<Part>& parts) { expect_picked(Layer(m, parts)); }

TEST(CudaLatent, PicksTheBestKeysInOrder) {
  Pair::in_every_schedule([] {
    expect_picked(sparse(kSmall, 2, 32, 8), {{8, 1}});
    expect_picked(sparse(kSmall, 3, 64, 40), {{38, 5}, {0, 3}, {200, 2}, {127, 3}});
  });
  expect_picked(sparse(kSmall, 70, 32, 130), {{129, 2}, {260, 1}});
  expect_picked(sparse(kSmall, 1, 32, 1100), {{1098, 4}, {4500, 1}});
}

// ---- attending

void expect_attended(const Layer& l, int first) {
  const LatentHeads& m = l.m;
  const int rows = l.rows - first;
  std::vector<int32_t> picks;
  std::mt19937 random(17);
  for (int r = first; m.top_k && r < l.rows; ++r) {
    std::vector<int32_t> all(l.pair.cpu_batch.positions[r] + 1), best;
    std::iota(all.begin(), all.end(), 0);
    std::sample(all.begin(), all.end(), std::back_inserter(best), m.top_k, random);
    best.resize(m.top_k, -1);
    picks.insert(picks.end(), best.begin(), best.end());
  }
  const int64_t query_columns = int64_t{m.heads} * m.cached_dim(), sums_columns = int64_t{m.heads} * m.kv_rank;
  const Both<bf16> query(l.pair, normal_bf16(static_cast<size_t>(rows * query_columns), 11)),
      sums(l.pair, static_cast<size_t>(rows * sums_columns));
  const Both<int32_t> picked(l.pair, picks);
  for (bool gpu : {false, true})
    l.device(gpu).attend_latents(l.on(gpu), {first, rows}, mat(query, gpu, rows, query_columns),
                                 mat(picked, gpu, rows, m.top_k), mat(sums, gpu, rows, sums_columns));

  sums.expect_same("sums of latents");
}

void expect_attended(const LatentHeads& m, const std::vector<Part>& parts, int first) {
  expect_attended(Layer(m, parts), first);
}

TEST(CudaLatent, AttendsToLatents) {
  Pair::in_every_schedule([] {
    expect_attended(kSmall, {{0, 1}}, 0);
    expect_attended(kSmall, {{62, 3}, {0, 2}, {511, 2}, {1100, 1}}, 1);
  });
  expect_attended(kWide, {{530, 2}, {31, 1}}, 0);
}

TEST(CudaLatent, AttendsToPickedLatents) {
  Pair::in_every_schedule([] { expect_attended(sparse(kSmall, 1, 32, 40), {{38, 4}, {700, 1}, {3, 1}}, 0); });
  expect_attended(sparse(kSmall, 1, 32, 600), {{598, 4}, {1700, 1}}, 1);
}

// Of which 16 share a block where there are many.
TEST(CudaLatent, AttendsWithManyHeads) {
  expect_attended(kMany, {{5, 66}}, 0);
  expect_attended(kMany, {{495, 40}, {9, 1}}, 0);
}

// Reserved for less, as if this were a larger step than memory has room for at once: rows, and spans of a row, follow
// one another in waves.
TEST(CudaLatent, TakesWhatThereIsNoRoomForInWaves) {
  const LatentHeads m = sparse(kSmall, 2, 32, 40);
  const Layer picking(m, {{300, 3}, {38, 4}, {290, 2}});
  picking.pair.gpu->reserve({.rows = 2, .context = 303, .latent = m});
  expect_picked(picking);

  const Layer rows(kSmall, {{510, 4}, {1100, 2}});
  rows.pair.gpu->reserve({.rows = 1, .context = 1102, .latent = kSmall});
  expect_attended(rows, 0);

  const Layer spans(kSmall, {{1600, 2}});
  spans.pair.gpu->reserve({.rows = 1, .context = 64, .latent = kSmall});
  expect_attended(spans, 0);
}

// ---- expanded

void expect_expanded(const LatentHeads& m, const std::vector<Part>& parts, int first, int rows) {
  const Layer l(m, parts);
  const int64_t columns = int64_t{m.heads} * m.value_dim;
  const Both<bf16> q_latent(l.pair, normal_bf16(static_cast<size_t>(rows) * m.q_rank, 11)),
      out(l.pair, static_cast<size_t>(rows * columns));
  for (bool gpu : {false, true})
    l.device(gpu).attend_expanded(l.on(gpu), {first, rows}, mat(q_latent, gpu, rows, m.q_rank),
                                  mat(out, gpu, rows, columns));

  out.expect_same("values");
}

TEST(CudaLatent, AttendsToExpandedLatents) {
  Pair::in_every_schedule([] {
    expect_expanded(kSmall, {{0, 1}}, 0, 1);
    expect_expanded(kSmall, {{3, 2}, {500, 30}}, 3, 28);
  });
  expect_expanded(kWide, {{600, 20}}, 0, 20);
  expect_expanded(sparse(kWide, 2, 64, 128), {{0, 40}}, 0, 40);
}

TEST(CudaLatent, ExpandsSomeHeadsAndSpansAtATime) {
  LatentHeads m = kMany;
  m.heads = 35;
  expect_expanded(m, {{520, 20}}, 0, 20);
}

TEST(CudaLatent, RefusesHeadsThatLieApartUnequally) {
  Layer l(kSmall, {{0, 1}});
  l.value_up.gpu[2].data += 1024;
  const Both<bf16> sums(l.pair, size_t{3} * 96), out(l.pair, size_t{3} * 64);

  EXPECT_THROW(l.pair.gpu->value_up(l.on(true), mat(sums, true, 1, 3 * 96), mat(out, true, 1, 3 * 64)),
               std::logic_error);
}

TEST(CudaLatent, DoesNothingForNoRows) {
  const Layer l(sparse(kSmall, 2, 32, 8), {{0, 1}});
  const LatentLayer on = l.on(true);
  Device& gpu = *l.pair.gpu;

  gpu.latents(on, {0, 0}, {}, {});
  gpu.absorb(on, {0, 0}, {}, {});
  gpu.pick(on, {0, 0}, {}, {}, {}, {});
  gpu.attend_latents(on, {0, 0}, {}, {}, {});
  gpu.value_up(on, {}, {});
  gpu.attend_expanded(on, {0, 0}, {}, {});
}

}  // namespace
}  // namespace kt
