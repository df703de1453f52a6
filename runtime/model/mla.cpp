// Multi-head latent attention in absorbed form, and DeepSeek sparse attention on top of it.
//
// A query goes through its head's key projection once, q~ = W_K^T q; then all heads share one key per token, the cached
// latent with its rotated part, and one value, the latent. So scores and sums are matrix products whose weights are
// cached rows, packed as they are needed; W_V is applied to the sums. Prefill and decode do the same.
//
// Queries, latents and probabilities are bf16, sums float32: a score is one chain (kernels/weight.h) over the cached
// dims, a sum of latents one chain over the keys of a span. Keys are taken in spans of kKvSpan entries of the query's
// key list, which is all positions up to its own, or, when there are more than the indexer's top_k, the ones it picked
// in ascending order. Keys that a query does not see weigh exactly 0, so neighbours in a run do not change its bits.

#include "runtime/model/mla.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/top_keys.h"
#include "runtime/base/error.h"
#include "runtime/model/trunk.h"

namespace kt {
namespace {

constexpr float kLatentEps = 1e-6f;  // of the latents' norms, in the releases' code whatever rms_norm_eps says
constexpr int kRunQueries = 128;     // at most, of one sequence
constexpr int kLeastRunQueries = 16;
constexpr int kAbsorbRows = 64;    // of one head per task
constexpr int kPagesPerTask = 16;  // of one query's index scores

int64_t index_score_room(const ModelConfig& c) {
  return c.mla.indexer ? std::max<int64_t>(1 << 20, round_up(c.max_context, kKvBlock)) : 0;
}

// Elements of a thread's own memory.
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
size_t slot_bytes(const MlaSpec& m) {
  const SlotSizes s = slot_sizes(m);
  return s.packed * sizeof(bf16) + s.scores * sizeof(float) + s.weights * sizeof(bf16);
}

struct Slot {
  bf16* packed;   // cached rows of one span as a matrix
  float* scores;  // of a run and a span; or rows of one head; or of index heads and a page
  bf16* weights;  // softmax of the scores; or rows of one head
};
Slot slot_of(const Trunk& t, int64_t slot) {
  const SlotSizes s = slot_sizes(t.config.mla);
  std::byte* at = t.mla->slots[static_cast<size_t>(slot)].bytes();
  auto* scores = reinterpret_cast<float*>(at + s.packed * sizeof(bf16));
  return {reinterpret_cast<bf16*>(at), scores, reinterpret_cast<bf16*>(scores + s.scores)};
}

// A token of the step.
struct Token {
  int slice, position;
  const int32_t* blocks;
};
std::vector<Token> tokens_of(const StepPlan& plan) {
  std::vector<Token> tokens;
  for (size_t s = 0; s < plan.slices.size(); ++s)
    for (int i = 0; i < plan.slices[s].count; ++i)
      tokens.push_back({static_cast<int>(s), plan.slices[s].first + i, &plan.blocks[plan.block_begin[s]]});
  return tokens;
}

// One layer's work on rows [begin, begin + rows) of the step.
struct Block {
  Trunk& t;
  const MlaSpec& m;
  const MlaWeights& w;
  MlaRoom& room;
  const Ops& ops;
  int layer, begin, rows, heads;
  const Token* tokens;
  const int64_t* places;  // in the cache

  int64_t query_stride() const { return static_cast<int64_t>(heads) * m.cached_dim(); }
  bf16* page(int64_t block) const { return t.cache.pages(layer) + block * t.cache.page_stride(); }
  float* down(int row) const { return room.down.as<float>() + row * room.down_stride; }
  const float* cosines(int row) const { return &t.rope_cos[static_cast<size_t>(begin + row) * (m.rope.dims / 2)]; }
  const float* sines(int row) const { return &t.rope_sin[static_cast<size_t>(begin + row) * (m.rope.dims / 2)]; }
  // Whether the indexer picks the token's keys; up to top_k it would take them all.
  bool sparse(int row) const { return m.indexer && tokens[row].position >= m.indexer->top_k; }
  int32_t* picked(int row) const { return room.keys.as<int32_t>() + static_cast<int64_t>(row) * m.indexer->top_k; }
};

void to_bf16_row(const Ops& ops, const float* x, int64_t n, bf16* out) {
  ops.gate_output(x, nullptr, static_cast<int>(n), out);
}

// Into the packed matrix of a page's index keys, as output `offset`.
void store_index_key(const bf16* key, int dim, int offset, bf16* keys) {
  bf16* panel = keys + static_cast<int64_t>(offset / kPanel) * kPanel * dim;
  for (int i = 0; i < dim; i += 2)
    std::memcpy(panel + static_cast<int64_t>(i) * kPanel + 2 * (offset % kPanel), key + i, 2 * sizeof(bf16));
}

// Norm and rope of the index key, and into the cache.
void finish_index_key(const Block& b, int row) {
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

// Latents of queries and keys; the latter, and the index keys, go to the cache.
void project_down(const Block& b) {
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
                     b.room.q_latent.as<bf16>() + static_cast<int64_t>(r) * b.m.q_rank);
      float* kv = b.down(r) + b.room.kv_at;
      b.ops.head_norm(kv, b.w.kv_norm.data(), kLatentEps, b.m.kv_rank);
      b.ops.rope_pairs(kv + b.m.kv_rank, b.cosines(r), b.sines(r), b.m.rope.dims / 2);
      to_bf16_row(b.ops, kv, b.m.cached_dim(),
                  b.page(b.places[r] / kKvBlock) + b.places[r] % kKvBlock * b.m.cached_dim());
      if (b.m.indexer) finish_index_key(b, r);
    }
  });
}

Rows latent_queries(const Block& b) {
  return {.data = b.room.q_latent.as<bf16>(), .stride = b.m.q_rank, .count = b.rows};
}

// Queries in latent form, with their rotated part behind.
void absorb_queries(const Block& b) {
  const MlaSpec& m = b.m;
  const int64_t q_stride = round_up(static_cast<int64_t>(b.heads) * m.head_dim(), kPanel);
  b.t.kernels.matmul(latent_queries(b), b.w.q_b, b.room.q.as<float>(), q_stride);
  const int parts = static_cast<int>(ceil_div(b.rows, kAbsorbRows));
  run_slots(b.t.kernels.pool, static_cast<int64_t>(parts) * b.heads, [&](int64_t i, int64_t slot) {
    const Slot s = slot_of(b.t, slot);
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

// ---- which keys ----------------------------------------------------------------------------------------------------

// Rotated queries of the indexer, and its heads' weights with both scales.
void index_queries(const Block& b) {
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
void score_pages(const Block& b, int row, int first, int last, float* dots, float* scores) {
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

// Picks the keys of the rows that see more than top_k, as many rows at a time as there is room for their scores.
void pick_keys(const Block& b) {
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

// ---- attention -----------------------------------------------------------------------------------------------------

// Queries [begin, end) = row * heads + head of the block; either all of one row, whose keys are picked, or of rows of
// one sequence that see all positions up to their own.
struct Run {
  int begin, end;
  const int32_t* blocks;
  const int32_t* picked;  // null: all

  int row(int query, int heads) const { return (begin + query) / heads; }
};

int visible_keys(const Block& b, int row) { return b.sparse(row) ? b.m.indexer->top_k : b.tokens[row].position + 1; }

// Long runs share packed keys; short ones keep all threads busy.
int run_length(const Block& b) {
  int64_t spans = 1;
  for (int r = 0; r < b.rows; ++r) spans = std::max<int64_t>(spans, ceil_div(visible_keys(b, r), kKvSpan));
  int length = kRunQueries;
  while (length > kLeastRunQueries && b.rows * b.heads * spans < 2ll * b.t.kernels.pool.size() * length) length /= 2;
  return length;
}

std::vector<Run> cut_runs(const Block& b) {
  const int length = run_length(b);
  std::vector<Run> runs;
  for (int first = 0, last; first < b.rows; first = last) {
    last = first + 1;
    while (!b.sparse(first) && last < b.rows && b.tokens[last].slice == b.tokens[first].slice && !b.sparse(last))
      ++last;
    for (int q = first * b.heads; q < last * b.heads; q += length)
      runs.push_back({q, std::min(q + length, last * b.heads), b.tokens[first].blocks,
                      b.sparse(first) ? b.picked(first) : nullptr});
  }
  return runs;
}

// Softmax states and unnormalised sums of latents (queries, kv_rank) of one run over one span.
void attend_span(const Block& b, const Run& run, int span, const Slot& s, SoftmaxState* states, float* values) {
  const MlaSpec& m = b.m;
  const int start = span * kKvSpan, queries = run.end - run.begin;
  const int keys = std::min(kKvSpan, visible_keys(b, run.row(queries - 1, b.heads)) - start);
  const bf16* rows[kKvSpan];
  for (int i = 0; i < keys; ++i) {
    const int position = run.picked ? run.picked[start + i] : start + i;
    rows[i] = b.page(run.blocks[position / kKvBlock]) + static_cast<int64_t>(position % kKvBlock) * m.cached_dim();
  }
  const auto* packed = reinterpret_cast<const std::byte*>(s.packed);

  b.ops.pack_rows(rows, keys, m.cached_dim(), s.packed);
  const Rows q{.data = b.room.query.as<bf16>() + static_cast<int64_t>(run.begin) * m.cached_dim(),
               .stride = m.cached_dim(),
               .count = queries};
  const PackedMatrix as_keys{.n = keys, .k = m.cached_dim(), .data = packed};
  b.ops.matmul(q, as_keys, 0, as_keys.panels(), s.scores, kKvSpan);

  for (int i = 0; i < queries; ++i) {
    const int seen = std::clamp(visible_keys(b, run.row(i, b.heads)) - start, 0, keys);
    const int64_t at = static_cast<int64_t>(i) * kKvSpan;
    states[i] = b.ops.softmax_row(s.scores + at, m.scale, seen, keys, s.weights + at);
  }

  b.ops.pack_columns(rows, keys, m.kv_rank, s.packed);
  const PackedMatrix as_values{.n = m.kv_rank, .k = keys, .data = packed};
  b.ops.matmul({.data = s.weights, .stride = kKvSpan, .count = queries}, as_values, 0, as_values.panels(), values,
               m.kv_rank);
}

void attend(const Block& b) {
  const std::vector<Run> runs = cut_runs(b);
  std::vector<QueryRun> spans;
  for (const Run& run : runs) {
    const int queries = run.end - run.begin;
    spans.push_back({queries, static_cast<int>(ceil_div(visible_keys(b, run.row(queries - 1, b.heads)), kKvSpan))});
  }
  const int n = b.m.kv_rank;
  attend_in_spans(
      b.t.kernels, spans, kRunQueries, n, b.t.spans,
      [&](int i, int span, int64_t slot, SoftmaxState* states, float* values) {
        attend_span(b, runs[i], span, slot_of(b.t, slot), states, values);
      },
      [&](int i, const SoftmaxState* states, float* values) {
        for (int q = 0; q < spans[i].queries; ++q) {
          float* sums = values + static_cast<int64_t>(q) * n;
          for (int c = 0; c < n; ++c) sums[c] = sums[c] / states[q].sum;
          to_bf16_row(b.ops, sums, n, b.room.mixed.as<bf16>() + static_cast<int64_t>(runs[i].begin + q) * n);
        }
      });
}

// The heads' value projections, and the output projection into y.
void project_up(const Block& b) {
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
  b.t.kernels.matmul_add({.data = out, .stride = stride, .count = b.rows}, b.w.out, m.value_dim, nullptr,
                         b.t.y.as<double>() + b.begin * b.t.stride.y, b.t.stride.y);
}

}  // namespace

// A row attends to rows before it, which are in the cache by then: of earlier steps, earlier blocks, or this one.
void mix_mla(Trunk& t, int layer, const StepPlan& plan) {
  const std::vector<Token> tokens = tokens_of(plan);
  const std::vector<int64_t> places = cache_places(plan);
  for (int begin = 0; begin < plan.rows(); begin += kMlaRows) {
    const Block b{.t = t,
                  .m = t.config.mla,
                  .w = t.weights.layers[layer].mla,
                  .room = *t.mla,
                  .ops = t.kernels.ops,
                  .layer = layer,
                  .begin = begin,
                  .rows = std::min(kMlaRows, plan.rows() - begin),
                  .heads = t.share.heads.size(),
                  .tokens = &tokens[static_cast<size_t>(begin)],
                  .places = &places[static_cast<size_t>(begin)]};
    project_down(b);
    absorb_queries(b);
    if (b.m.indexer) pick_keys(b);
    attend(b);
    project_up(b);
  }
}

namespace {

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
  const auto bytes = [&](int64_t columns, size_t size) { return static_cast<size_t>(rows * columns) * size; };
  const DownColumns d = down_columns(m);
  return {.down = bytes(d.q + d.kv + d.index_k + d.index_weights, 4),
          .q_latent = bytes(m.q_rank, 2),
          .q = bytes(round_up(heads * m.head_dim(), kPanel), 4),
          .query = bytes(heads * m.cached_dim(), 2),
          .mixed = bytes(heads * m.kv_rank, 2),
          .values = bytes(heads * m.value_dim, 4),
          .out = bytes(heads * m.value_dim, 2),
          .index_q = bytes(static_cast<int64_t>(index.heads) * index.head_dim, 4),
          .index_q16 = bytes(static_cast<int64_t>(index.heads) * index.head_dim, 2),
          .keys = bytes(index.top_k, 4),
          .index_scores = static_cast<size_t>(index_score_room(config)) * 4};
}

}  // namespace

size_t mla_room_bytes(const ModelConfig& config, const TrunkShare& share, int max_rows, int threads, int context) {
  const MlaSpec& m = config.mla;
  const RoomBytes b = room_bytes(config, share, max_rows);
  size_t bytes = 0;
  for (size_t size :
       {b.down, b.q_latent, b.q, b.query, b.mixed, b.values, b.out, b.index_q, b.index_q16, b.keys, b.index_scores})
    bytes += Buffer::footprint(size);
  const size_t ranks = m.indexer ? static_cast<size_t>(context) * sizeof(uint32_t) : 0;
  const int keys = m.indexer ? std::min(context, m.indexer->top_k) : context;
  return bytes + static_cast<size_t>(threads) * (Buffer::footprint(slot_bytes(m)) + ranks) +
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
  for (int i = 0; i < pool.size(); ++i) slots.push_back(make(slot_bytes(config.mla)));
  ranks.resize(static_cast<size_t>(pool.size()));
}

}  // namespace kt
