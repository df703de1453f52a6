// Grouped-query attention on the emulated device, bit for bit.

#include <algorithm>
#include <numeric>

#include "tests/kernels/cuda_pair.h"

namespace kt {
namespace {

struct Tokens {
  int first, count;  // of a sequence
};

// Pages of all sequences, in no order.
Batch batch_of(const std::vector<Tokens>& sequences, int half) {
  Batch b;
  for (int i = 0; i < half; ++i) b.frequencies.push_back(1.0 / (1 + 3 * i));
  for (const Tokens& t : sequences) {
    const int row = b.rows();
    b.slices.push_back({.row = row, .count = t.count, .first = t.first, .block = static_cast<int>(b.blocks.size())});
    b.blocks.resize(b.blocks.size() + static_cast<size_t>(ceil_div(t.first + t.count, kKvBlock)));
    for (int i = 0; i < t.count; ++i) {
      b.slice_of.push_back(static_cast<int32_t>(b.slices.size()) - 1);
      b.positions.push_back(t.first + i);
    }
  }
  std::iota(b.blocks.begin(), b.blocks.end(), 0);
  std::shuffle(b.blocks.begin(), b.blocks.end(), std::mt19937(5));
  for (int r = 0; r < b.rows(); ++r) {
    const int position = b.positions[r];
    b.places.push_back(int64_t{b.blocks_of(b.slices[b.slice_of[r]])[position / kKvBlock]} * kKvBlock +
                       position % kKvBlock);
  }
  return b;
}

// A step's rows and a layer's pages, which are larger than the layer's own heads.
struct Layer {
  GroupedHeads g;
  Batch batch;
  int rows = batch.rows();
  int64_t ld = round_up(g.columns(), 16) + 16, out_ld = round_up(g.query_columns(), 32),
          stride = g.kv_heads * kv_page_elements(g.head_dim) + 32;
  Both<float> x;
  Both<bf16> pages, out;

  Layer(const Pair& pair, const GroupedHeads& heads, const Batch& of)
      : g(heads),
        batch(of),
        x(pair, normal_floats(static_cast<size_t>(rows * ld), 1)),
        pages(pair, normal_bf16(batch.blocks.size() * static_cast<size_t>(stride), 2)),
        out(pair, static_cast<size_t>(rows * out_ld)) {}

  Mat<float> cpu_rows() const { return x.cpu_mat(rows, static_cast<int>(g.columns()), ld); }
  Mat<float> gpu_rows() const { return x.gpu_mat(rows, static_cast<int>(g.columns()), ld); }
  Pages cpu_pages() const { return {pages.cpu(), stride}; }
  Pages gpu_pages() const { return {pages.gpu(), stride}; }
  Mat<bf16> cpu_out() const { return out.cpu_mat(rows, static_cast<int>(g.query_columns()), out_ld); }
  Mat<bf16> gpu_out() const { return out.gpu_mat(rows, static_cast<int>(g.query_columns()), out_ld); }
};

struct WithHeads {
  bool norm, bias;
  int half;
};

void heads_of(const GroupedHeads& g, const std::vector<Tokens>& sequences, WithHeads with) {
  SCOPED_TRACE(std::to_string(g.heads) + " heads, " + std::to_string(g.kv_heads) + " kv, " +
               std::to_string(g.head_dim) + (with.norm ? ", normed" : "") + (with.bias ? ", bias" : "") + ", half " +
               std::to_string(with.half));
  Pair pair;
  const auto columns = static_cast<size_t>(g.columns()), d = static_cast<size_t>(g.head_dim);
  const Both<float> bias(pair, normal_floats(columns, 3)), q_norm(pair, normal_floats(d, 4)),
      k_norm(pair, normal_floats(d, 5));
  Pair::in_every_schedule([&] {
    Layer l(pair, g, batch_of(sequences, with.half));
    pair.reserve({.rows = std::max(l.rows, 1), .context = 4096, .attention = g});
    pair.begin(l.batch);
    const size_t biased = with.bias ? columns : 0;
    pair.cpu->heads({.heads = g,
                     .rows = l.cpu_rows(),
                     .bias = {bias.cpu(), biased},
                     .q_norm = with.norm ? q_norm.cpu() : nullptr,
                     .k_norm = with.norm ? k_norm.cpu() : nullptr,
                     .eps = 1e-6f,
                     .pages = l.cpu_pages()});
    pair.gpu->heads({.heads = g,
                     .rows = l.gpu_rows(),
                     .bias = {bias.gpu(), biased},
                     .q_norm = with.norm ? q_norm.gpu() : nullptr,
                     .k_norm = with.norm ? k_norm.gpu() : nullptr,
                     .eps = 1e-6f,
                     .pages = l.gpu_pages()});
    l.x.expect_same("rows");
    l.pages.expect_same("pages");
  });
}

TEST(CudaAttention, HeadsAreBiasedNormedRotatedAndStored) {
  const std::vector<Tokens> sequences = {{0, 5}, {63, 2}, {200, 1}};
  for (bool norm : {false, true})
    for (bool bias : {false, true})
      for (bool gated : {false, true}) {
        heads_of({.heads = 6, .kv_heads = 2, .head_dim = 32, .gated = gated}, sequences, {norm, bias, 16});
        heads_of({.heads = 3, .kv_heads = 3, .head_dim = 80, .gated = gated}, sequences, {norm, bias, 9});
      }
  heads_of({.heads = 4, .kv_heads = 1, .head_dim = 256, .gated = true}, {{0, 70}}, {true, false, 32});
  heads_of({.heads = 1, .kv_heads = 1, .head_dim = 16}, {{7, 1}}, {true, true, 0});
  heads_of({.heads = 1, .kv_heads = 1, .head_dim = 16384}, {{7, 1}}, {true, true, 32});
  heads_of({.heads = 6, .kv_heads = 2, .head_dim = 32}, {}, {true, true, 16});
}

// `room`: what is reserved for, less than is asked makes more waves.
void attend(const GroupedHeads& g, const std::vector<Tokens>& sequences, StepShape room, bool in_every_schedule) {
  SCOPED_TRACE(std::to_string(g.heads) + " heads, " + std::to_string(g.kv_heads) + " kv, " +
               std::to_string(g.head_dim) + (g.gated ? ", gated" : ""));
  Pair pair;
  Layer l(pair, g, batch_of(sequences, 0));
  room.attention = g;
  pair.reserve(room);
  pair.begin(l.batch);
  // What lies behind a sequence's end in its last page is nobody's.
  std::vector<bf16> pages = l.pages.expected();
  for (const BatchSlice& s : l.batch.slices) {
    const int keys = s.first + s.count;
    bf16* page = pages.data() + l.batch.blocks_of(s)[(keys - 1) / kKvBlock] * l.stride;
    for (int key = (keys - 1) % kKvBlock + 1; key < kKvBlock; ++key)
      for (int c = 0; c < g.head_dim; ++c) page[c * kKvBlock + key] = page[(kKvBlock + key) * g.head_dim + c] = 0x7fc0;
  }
  l.pages.set(pages);
  pair.cpu->attend(g, l.cpu_rows(), l.cpu_pages(), l.cpu_out());
  const auto run = [&] {
    pair.gpu->clear(l.out.gpu(), l.out.count * sizeof(bf16));
    pair.gpu->attend(g, l.gpu_rows(), l.gpu_pages(), l.gpu_out());
    l.out.expect_same("out");
  };
  if (!in_every_schedule) return run();
  using Copies = simt::Emulation::Copies;
  for (Copies copies : {Copies::kLate, Copies::kEarly, Copies::kRandom})
    Pair::in_every_schedule([&] {
      simt::emulation.copies = copies;
      run();
    });
}

TEST(CudaAttention, DecodesOneTokenOfEachSequence) {
  const std::vector<Tokens> sequences = {{0, 1}, {62, 1}, {63, 1}, {511, 1}, {512, 1}, {1600, 1}};
  for (int group : {1, 2, 3, 4, 5, 8, 16, 17, 40})
    attend({.heads = 2 * group, .kv_heads = 2, .head_dim = 32, .gated = group % 2 == 0}, sequences,
           {.rows = 8, .context = 2048}, group == 5);
}

TEST(CudaAttention, EveryRowSeesTheKeysUpToItsOwn) {
  const std::vector<Tokens> sequences = {{0, 70}, {500, 30}, {1023, 2}, {9, 1}};
  for (int group : {1, 3, 8})
    for (int head_dim : {16, 80})
      attend({.heads = group, .kv_heads = 1, .head_dim = head_dim, .gated = group == 3}, sequences,
             {.rows = 128, .context = 2048}, group == 3 && head_dim == 16);
}

TEST(CudaAttention, HeadsMayBeWide) {
  for (int head_dim : {128, 144, 256, 512, 1024})
    attend({.heads = 2, .kv_heads = 1, .head_dim = head_dim, .gated = true}, {{40, 18}, {530, 1}},
           {.rows = 32, .context = 1024}, head_dim == 144);
}

// Runs are cut by waves at each of their spans, and merged on.
TEST(CudaAttention, MoreSpansThanThereIsRoomForGoInWaves) {
  for (int group : {1, 5})
    attend({.heads = 2 * group, .kv_heads = 2, .head_dim = 16, .gated = true},
           {{3000, 1}, {2000, 40}, {0, 1}, {5000, 1}, {100, 3}}, {.rows = 1, .context = 64}, group == 5);
}

TEST(CudaAttention, ManySequencesAreMoreThanOneLaunchTakes) {
  std::vector<Tokens> sequences;
  for (int i = 0; i < 150; ++i) sequences.push_back({i * 7 % 600, 1 + (i % 31 == 0)});
  attend({.heads = 2, .kv_heads = 1, .head_dim = 16}, sequences, {.rows = 256, .context = 1024}, false);
  attend({.heads = 2, .kv_heads = 1, .head_dim = 16}, {}, {.rows = 1, .context = 64}, false);
}

// More spans than a block merges at a time.
TEST(CudaAttention, LongContextsAreMergedInOrder) {
  attend({.heads = 1, .kv_heads = 1, .head_dim = 16}, {{140 * kKvSpan, 1}}, {.rows = 1, .context = 141 * kKvSpan},
         false);
}

}  // namespace
}  // namespace kt
