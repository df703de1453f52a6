// Grouped-query attention. Every row sees spans of kKvSpan keys; blocks work at them in waves, and what they find is
// merged in ascending order after each wave.

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/device.h"

namespace kt::SIMT_TABLE {
namespace {

constexpr size_t kMostShared = 96 * 1024;  // of a block, on every device

// ---- queries, keys and values of a row

struct RowJob {
  GroupedHeads heads;
  Mat<float> rows;
  const float* bias;
  int64_t biased;  // columns
  const float *q_norm, *k_norm;
  float eps;
  Pages pages;
  DeviceBatch batch;
};

// Sixteen threads have a head of queries, gates, keys or values of a row: element i is thread i mod 16's.
__global__ void __launch_bounds__(256) heads_kernel(RowJob job) {
  const GroupedHeads& g = job.heads;
  const int d = g.head_dim, lane = static_cast<int>(threadIdx.x) % 16, mine = static_cast<int>(threadIdx.x) / 16;
  const int pieces = static_cast<int>(g.columns() / d), keys = static_cast<int>(g.keys_at() / d),
            values = keys + g.kv_heads;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 16) + mine, r = i / pieces;
  const int piece = static_cast<int>(i % pieces);
  const bool query = piece < g.heads, key = piece >= keys && piece < values, value = piece >= values;
  const int n = r < job.rows.rows && (query || key || value || job.biased) ? d : 0;
  float* x = job.rows.row(r) + static_cast<int64_t>(piece) * d;
  float* head = simt::dynamic_shared<float>() + mine * d;

  const float* norm = query ? job.q_norm : key ? job.k_norm : nullptr;
  float squares = 0.0f;
  for (int c = lane; c < n; c += 16) {
    const int64_t column = static_cast<int64_t>(piece) * d + c;
    head[c] = column < job.biased ? x[c] + job.bias[column] : x[c];
    squares = fmaf(head[c], head[c], squares);
  }
  const float scale = 1.0f / sqrtf(fold16_all(squares) / static_cast<float>(d) + job.eps);
  if (norm)
    for (int c = lane; c < n; c += 16) head[c] = head[c] * scale * norm[c];
  __syncwarp();
  if (n && (query || key)) {
    const float *cosines = job.batch.cosines + r * job.batch.half, *sines = job.batch.sines + r * job.batch.half;
    for (int c = lane; c < job.batch.half; c += 16) {
      const float a = head[c], b = head[c + job.batch.half];
      head[c] = fmaf(a, cosines[c], -(b * sines[c]));
      head[c + job.batch.half] = fmaf(b, cosines[c], a * sines[c]);
    }
  }
  __syncwarp();

  for (int c = lane; c < n; c += 16) x[c] = head[c];
  if (!n || !(key || value)) return;
  const int64_t place = job.batch.places[r];
  const int offset = static_cast<int>(place % kKvBlock);
  bf16* page = job.pages.page(place / kKvBlock) + (piece - (key ? keys : values)) * kv_page_elements(d);
  for (int c = lane; c < d; c += 16)
    page[key ? static_cast<int64_t>(c) * kKvBlock + offset : static_cast<int64_t>(kKvBlock + offset) * d + c] =
        to_bf16(head[c]);
}

// ---- attention

// The queries of a slice and a key-value head, token * group + head in group, are cut into runs of Q; runs are numbered
// by head, then query. An item is a run and a span of the slice; items are numbered by run, then span.
struct SliceItems {
  int slice, tiles, spans;  // tiles: runs of a head
  int64_t begin, end;       // items that are in the wave
  int first, first_run;     // where they are there
};
struct Wave {
  static constexpr int kMost = 64;
  SliceItems slices[kMost];
  int count = 0, items = 0, runs = 0;

  // The slice that has an item, or with first_run a run, of the wave.
  __device__ const SliceItems& having(int SliceItems::*first, int number) const {
    int at = 0;
    for (int step = kMost / 2; step; step /= 2)
      if (at + step < count && slices[at + step].*first <= number) at += step;
    return slices[at];
  }
};

struct AttendJob {
  GroupedHeads heads;
  Mat<float> rows;
  Pages pages;
  Mat<bf16> out;
  DeviceBatch batch;
  float scale;
  AttentionRoom room;
};

// Consecutive queries of a slice and a key-value head.
struct Run {
  BatchSlice slice;
  int group, kv_head, first, count;

  __device__ Run(const AttendJob& job, const SliceItems& s, int64_t run, int most)
      : slice(job.batch.slices[s.slice]),
        group(job.heads.group()),
        kv_head(static_cast<int>(run / s.tiles)),
        first(static_cast<int>(run % s.tiles) * most),
        count(slice.count * group - first < most ? slice.count * group - first : most) {}
  __device__ int position(int query) const { return slice.first + (first + query) / group; }
  __device__ int row(int query) const { return slice.row + (first + query) / group; }
  __device__ int64_t head(int query) const { return static_cast<int64_t>(kv_head) * group + (first + query) % group; }
};

template <int N>
__device__ void load_floats(const float* from, float (&to)[N]) {
  if constexpr (N % 4 == 0) {
    for (int i = 0; i < N; i += 4) {
      const float4 x = *reinterpret_cast<const float4*>(from + i);
      to[i] = x.x, to[i + 1] = x.y, to[i + 2] = x.z, to[i + 3] = x.w;
    }
  } else if constexpr (N == 2) {
    const float2 x = *reinterpret_cast<const float2*>(from);
    to[0] = x.x, to[1] = x.y;
  } else {
    for (int i = 0; i < N; ++i) to[i] = from[i];
  }
}
template <int N>
__device__ void store_floats(float* to, const float* from) {
  if constexpr (N == 4) {
    *reinterpret_cast<float4*>(to) = {from[0], from[1], from[2], from[3]};
  } else {
    for (int i = 0; i < N; ++i) to[i] = from[i];
  }
}
__device__ inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
template <int N>
__device__ void load_bf16(const bf16* from, float (&to)[N]) {
  if constexpr (N == 4) {
    const uint2 x = *reinterpret_cast<const uint2*>(from);
    to[0] = low_bf16(x.x), to[1] = high_bf16(x.x), to[2] = low_bf16(x.y), to[3] = high_bf16(x.y);
  } else if constexpr (N == 2) {
    const uint32_t x = *reinterpret_cast<const uint32_t*>(from);
    to[0] = low_bf16(x), to[1] = high_bf16(x);
  } else {
    to[0] = to_float(from[0]);
  }
}

// How a block of Q queries goes about a span: thread t has keys 2t and 2t + 1, whose components come in chunks of all
// keys and some components; then some columns of some queries, and the values come in chunks of some keys and up to
// kPass columns.
template <int Q>
struct Cut {
  static constexpr int kThreads = kKvSpan / 2, kStages = 3, kPass = 128;
  static constexpr int kComponents = Q > 8 ? 16 : 8, kKeys = Q > 8 ? 64 : 32;
  static constexpr int kChunk = kComponents * kKvSpan;  // elements
  static constexpr int kColumns = Q > 16 ? 4 : Q > 2 ? 2 : 1, kQueries = Q > 2 ? Q / 2 / kColumns : 1;
  static constexpr int kSums = (16 * Q + kThreads - 1) / kThreads;

  static size_t bytes(int d) {
    return kStages * kChunk * sizeof(bf16) + (static_cast<size_t>(d) + 2 * kKeys) * Q * sizeof(float);
  }
  // Where a chunk of exponentials, (kKeys, Q), has one; fours are exchanged so that neither keys nor queries meet in
  // one bank.
  static constexpr int kFours = Q > 8 ? Q / 4 : Q > 4 ? 2 : 1;
  __device__ static int at(int key, int query) { return key * Q + (query ^ (key / 2 % kFours * 4)); }
};

template <int Q>
struct SpanShared {
  const bf16* page[kKvSpan / kKvBlock];
  int seen[Q];  // keys of the span
  float top[kKvSpan / kKvBlock][Q];
};

// A block has a span of keys of a run of queries; a warp has the keys of a page.
template <int Q>
__global__ void __launch_bounds__(Cut<Q>::kThreads, 2) span_kernel(const AttendJob job, const Wave wave) {
  using C = Cut<Q>;
  auto& shared = simt::shared<SpanShared<Q>>();
  auto* ring = simt::dynamic_shared<bf16>();
  auto* q = reinterpret_cast<float*>(ring + C::kStages * C::kChunk);  // (head_dim, Q)
  const int d = job.heads.head_dim;
  float* p = q + d * Q;  // two chunks of exponentials
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;

  const int item = static_cast<int>(blockIdx.x);
  const SliceItems& s = wave.having(&SliceItems::first, item);
  const int64_t index = s.begin + (item - s.first);
  const Run run(job, s, index / s.spans, Q);
  const int span = static_cast<int>(index % s.spans), start = span * kKvSpan,
            left = run.position(run.count - 1) + 1 - start;
  if (left <= 0) return;
  const int most = left < kKvSpan ? left : kKvSpan, pages = (most + kKvBlock - 1) / kKvBlock;

  if (thread < pages)
    shared.page[thread] = job.pages.page(job.batch.blocks[run.slice.block + span * (kKvSpan / kKvBlock) + thread]) +
                          run.kv_head * kv_page_elements(d);
  if (thread < Q) {
    const int keys = thread < run.count ? run.position(thread) + 1 - start : 0;
    shared.seen[thread] = keys < 0 ? 0 : keys < kKvSpan ? keys : kKvSpan;
  }
  for (int i = thread; i < Q * d / 4; i += C::kThreads) {
    const int g = i % Q, c = i / Q * 4;
    float4 x = {0.0f, 0.0f, 0.0f, 0.0f};
    if (g < run.count) x = *reinterpret_cast<const float4*>(job.rows.row(run.row(g)) + run.head(g) * d + c);
    q[c * Q + g] = x.x, q[(c + 1) * Q + g] = x.y, q[(c + 2) * Q + g] = x.z, q[(c + 3) * Q + g] = x.w;
  }
  __syncthreads();

  const int key_chunks = d / C::kComponents, pass_chunks = (most + C::kKeys - 1) / C::kKeys,
            value_chunks = (d + C::kPass - 1) / C::kPass * pass_chunks;
  const auto columns_of = [&](int pass) { return d - pass * C::kPass < C::kPass ? d - pass * C::kPass : C::kPass; };
  const auto chunk_at = [&](int i) { return ring + i % C::kStages * C::kChunk; };
  const auto fetch = [&](int i) {
    bf16* to = chunk_at(i);
    if (i < key_chunks) {  // (pages, kComponents, kKvBlock)
      constexpr int kPageCopies = C::kComponents * kKvBlock / 8;
      for (int j = thread; j < pages * kPageCopies; j += C::kThreads)
        simt::copy16(to + j * 8, shared.page[j / kPageCopies] + i * C::kComponents * kKvBlock + j % kPageCopies * 8);
    } else if (i < key_chunks + value_chunks) {  // (kKeys, columns)
      const int pass = (i - key_chunks) / pass_chunks, key = (i - key_chunks) % pass_chunks * C::kKeys,
                copies = columns_of(pass) / 8;
      const bf16* from =
          shared.page[key / kKvBlock] + (kKvBlock + key % kKvBlock) * static_cast<int64_t>(d) + pass * C::kPass;
      for (int j = thread; j < C::kKeys * copies; j += C::kThreads)
        simt::copy16(to + j * 8, from + static_cast<int64_t>(j / copies) * d + j % copies * 8);
    }
    simt::commit();
  };
  // Chunk i is there, and the one after the next is on its way into the place of the last.
  const auto await = [&](int i) {
    simt::wait<C::kStages - 2>();
    __syncthreads();
    fetch(i + C::kStages - 1);
  };
  for (int i = 0; i < C::kStages - 1; ++i) fetch(i);

  // Scores, then exponentials, of two keys.
  const int key = 2 * thread;
  float score[2][Q] = {};
  for (int i = 0; i < key_chunks; ++i) {
    await(i);
    if (warp >= pages) continue;
    const auto* k = reinterpret_cast<const uint32_t*>(chunk_at(i)) + warp * (C::kComponents * kKvBlock / 2) + lane;
    const float* component = q + i * C::kComponents * Q;
#pragma unroll(Q > 16 ? 2 : 4)
    for (int c = 0; c < C::kComponents; ++c) {
      const uint32_t pair = k[c * (kKvBlock / 2)];
      const float a = low_bf16(pair), b = high_bf16(pair);
      float x[Q];
      load_floats(component + c * Q, x);
#pragma unroll
      for (int g = 0; g < Q; ++g) {
        score[0][g] = fmaf(x[g], a, score[0][g]);
        score[1][g] = fmaf(x[g], b, score[1][g]);
      }
    }
  }
  const float lowest = -__uint_as_float(0x7f800000u);
#pragma unroll
  for (int g = 0; g < Q; ++g) {
    float top = lowest;
    for (int j = 0; j < 2; ++j) {
      score[j][g] = score[j][g] * job.scale;
      if (key + j < shared.seen[g]) top = fmaxf(top, score[j][g]);
    }
    for (int half = 16; half; half /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, half));
    if (lane == 0) shared.top[warp][g] = top;
  }
  __syncthreads();
  const auto top_of = [&](int g) {
    float top = lowest;
    for (int w = 0; w < kKvSpan / kKvBlock; ++w) top = fmaxf(top, shared.top[w][g]);
    return top;
  };
#pragma unroll
  for (int g = 0; g < Q; ++g) {
    const float top = top_of(g);
    for (int j = 0; j < 2; ++j) score[j][g] = exponential(score[j][g] - top);
  }

  // Exponentials of one chunk of keys after the other, for all: who has them puts them there.
  const auto put = [&](int n) {
    const int first = n % pass_chunks * C::kKeys;
    if (key < first || key >= first + C::kKeys) return;
    float* to = p + n % 2 * C::kKeys * Q;
    constexpr int kFour = Q < 4 ? Q : 4;
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int g = 0; g < Q; g += kFour) store_floats<kFour>(to + C::at(key - first + j, g), &score[j][g]);
  };
  // Sums of the exponentials: thread i mod 16 of a query has those of keys i mod 16.
  float sum[C::kSums] = {};
  const auto add = [&](int n) {
    const float* from = p + n % 2 * C::kKeys * Q;
#pragma unroll
    for (int i = 0; i < C::kSums; ++i) {
      const int g = (thread + i * C::kThreads) / 16;
      const int keys = g < Q ? shared.seen[g] - n * C::kKeys : 0;
      for (int j = thread % 16; j < C::kKeys; j += 16)
        if (j < keys) sum[i] = sum[i] + from[C::at(j, g)];
    }
  };

  const int column = thread % (C::kPass / C::kColumns) * C::kColumns,
            query = thread / (C::kPass / C::kColumns) * C::kQueries;
  float out[C::kQueries][C::kColumns] = {};
  put(0);
  for (int n = 0; n < value_chunks; ++n) {
    await(key_chunks + n);
    if (n + 1 < value_chunks) put(n + 1);
    if (n < pass_chunks) add(n);
    const int pass = n / pass_chunks, columns = columns_of(pass), first = n % pass_chunks * C::kKeys;
    if (query >= Q || column >= columns) continue;
    const bf16* v = chunk_at(key_chunks + n) + column;
    const float* from = p + n % 2 * C::kKeys * Q;
    int keys[C::kQueries], least = C::kKeys;
    for (int g = 0; g < C::kQueries; ++g) {
      keys[g] = shared.seen[query + g] - first;
      least = keys[g] < least ? keys[g] : least;
    }
    const auto multiply = [&](int j, auto all) {
      float x[C::kColumns], weight[C::kQueries];
      load_bf16(v + j * columns, x);
      load_floats(from + C::at(j, query), weight);
#pragma unroll
      for (int g = 0; g < C::kQueries; ++g) {
        if (!all && j >= keys[g]) continue;
#pragma unroll
        for (int c = 0; c < C::kColumns; ++c) out[g][c] = fmaf(weight[g], x[c], out[g][c]);
      }
    };
    if (least >= C::kKeys) {
#pragma unroll(Q > 16 ? 4 : 8)
      for (int j = 0; j < C::kKeys; ++j) multiply(j, std::true_type());
    } else {
#pragma unroll 1
      for (int j = 0; j < C::kKeys; ++j) multiply(j, std::false_type());
    }
    if (n % pass_chunks < pass_chunks - 1) continue;
    float* to = job.room.values + (static_cast<int64_t>(blockIdx.x) * Q + query) * d + pass * C::kPass + column;
#pragma unroll
    for (int g = 0; g < C::kQueries; ++g) {
      if (shared.seen[query + g] > 0) store_floats<C::kColumns>(to + g * d, out[g]);
#pragma unroll
      for (int c = 0; c < C::kColumns; ++c) out[g][c] = 0.0f;
    }
  }
#pragma unroll
  for (int i = 0; i < C::kSums; ++i) {
    const int g = (thread + i * C::kThreads) / 16;
    const float folded = fold16(sum[i]);
    if (thread % 16 == 0 && g < Q && shared.seen[g] > 0)
      job.room.states[static_cast<int64_t>(blockIdx.x) * Q + g] = {top_of(g), folded};
  }
}

constexpr int kMergeThreads = 128;
struct MergeShared {
  float sum[kMergeThreads], old_factor[kMergeThreads], new_factor[kMergeThreads], top[kMergeThreads / 32];
};

// A block has a query of a run and some columns, and merges its spans that are in the wave; first it finds the factors
// of as many spans as it has threads.
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(const AttendJob job, const Wave wave, int most, const SoftmaxState* carried_states,
                 const float* carried_values, SoftmaxState* states_to_carry, float* values_to_carry) {
  auto& shared = simt::shared<MergeShared>();
  const int d = job.heads.head_dim, parts = static_cast<int>(ceil_div(d, kMergeThreads));
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int block = static_cast<int>(blockIdx.x), column = block % parts * kMergeThreads + thread,
            g = block / parts % most, nth = block / parts / most;
  const SliceItems& s = wave.having(&SliceItems::first_run, nth);
  const int64_t number = s.begin / s.spans + (nth - s.first_run);
  const Run run(job, s, number, most);
  if (g >= run.count) return;
  const int64_t begin = number * s.spans, seen = run.position(g) / kKvSpan + 1;
  const int from = static_cast<int>(s.begin > begin ? s.begin - begin : 0),
            to = static_cast<int>(s.end - begin < seen ? s.end - begin : seen);
  if (from >= to) return;
  const auto place = [&](int span) { return (s.first + (begin + span - s.begin)) * most + g; };
  const auto value = [&](int span) { return column < d ? job.room.values[place(span) * d + column] : 0.0f; };

  SoftmaxState state = from ? carried_states[g] : job.room.states[place(0)];
  float v = from ? (column < d ? carried_values[static_cast<int64_t>(g) * d + column] : 0.0f) : value(0);
  for (int first = from ? from : 1; first < to; first += kMergeThreads) {
    const int spans = to - first < kMergeThreads ? to - first : kMergeThreads;
    SoftmaxState mine = {-__uint_as_float(0x7f800000u), 0.0f};
    if (thread < spans) mine = job.room.states[place(first + thread)];
    float upto = mine.max;
    for (int by = 1; by < 32; by *= 2) {
      const float before = __shfl_up_sync(~0u, upto, by);
      if (lane >= by) upto = fmaxf(upto, before);
    }
    if (lane == 31) shared.top[warp] = upto;
    float before = __shfl_up_sync(~0u, upto, 1);
    before = lane ? fmaxf(before, state.max) : state.max;
    __syncthreads();
    for (int w = 0; w < warp; ++w) before = fmaxf(before, shared.top[w]);
    const float top = fmaxf(before, mine.max);
    shared.sum[thread] = mine.sum;
    shared.old_factor[thread] = exponential(before - top);
    shared.new_factor[thread] = exponential(mine.max - top);
    for (int w = 0; w < kMergeThreads / 32; ++w) state.max = fmaxf(state.max, shared.top[w]);
    __syncthreads();
    for (int i = 0; i < spans; ++i) {
      state.sum = fmaf(shared.sum[i], shared.new_factor[i], state.sum * shared.old_factor[i]);
      v = fmaf(value(first + i), shared.new_factor[i], v * shared.old_factor[i]);
    }
    __syncthreads();
  }

  if (column >= d) return;
  if (to < seen) {
    if (column == 0) states_to_carry[g] = state;
    values_to_carry[static_cast<int64_t>(g) * d + column] = v;
    return;
  }
  const int64_t to_column = run.head(g) * d + column;
  v = v / state.sum;
  if (job.heads.gated) v = v * sigmoid(job.rows.row(run.row(g))[job.heads.query_columns() + to_column]);
  job.out.row(run.row(g))[to_column] = to_bf16(v);
}

// Waves of what blocks of Q queries do.
template <int Q>
class Waves {
 public:
  Waves(const AttendJob& job, simt::Stream stream) : job_(job), stream_(stream) {}

  void add(int slice, const BatchSlice& s) {
    const int queries = s.count * job_.heads.group(), tiles = static_cast<int>(ceil_div(queries, Q)),
              spans = (s.first + s.count - 1) / kKvSpan + 1;
    const int64_t items = static_cast<int64_t>(tiles) * job_.heads.kv_heads * spans, room = job_.room.pairs / Q;
    for (int64_t begin = 0, end; begin < items; begin = end) {
      if (wave_.count == Wave::kMost || wave_.items == room) run();
      end = std::min(items, begin + room - wave_.items);
      wave_.slices[wave_.count++] = {slice, tiles, spans, begin, end, wave_.items, wave_.runs};
      wave_.items += static_cast<int>(end - begin);
      wave_.runs += static_cast<int>(ceil_div(end, spans) - begin / spans);
    }
  }
  void run() {
    if (!wave_.items) return;
    const int64_t merges = static_cast<int64_t>(wave_.runs) * Q * ceil_div(job_.heads.head_dim, kMergeThreads);
    const AttentionRoom& room = job_.room;
    simt::launch(dim3(static_cast<unsigned>(wave_.items)), dim3(Cut<Q>::kThreads), Cut<Q>::bytes(job_.heads.head_dim),
                 stream_, span_kernel<Q>, job_, wave_);
    simt::launch(dim3(static_cast<unsigned>(merges)), dim3(kMergeThreads), 0, stream_, merge_kernel, job_, wave_, Q,
                 room.carried_states[turn_], room.carried_values[turn_], room.carried_states[1 - turn_],
                 room.carried_values[1 - turn_]);
    turn_ = 1 - turn_;
    wave_.count = wave_.items = wave_.runs = 0;
  }

 private:
  const AttendJob& job_;
  simt::Stream stream_;
  Wave wave_;
  int turn_ = 0;
};

// Slices with as many queries as blocks of Q are for, then those with more.
template <int Q>
void attend_from(const AttendJob& job, const Batch& batch, int most, simt::Stream stream) {
  Waves<Q> waves(job, stream);
  for (size_t i = 0; i < batch.slices.size(); ++i) {
    const auto queries = static_cast<unsigned>(batch.slices[i].count * job.heads.group());
    if (queries && std::min(most, static_cast<int>(std::bit_ceil(queries))) == Q)
      waves.add(static_cast<int>(i), batch.slices[i]);
  }
  waves.run();
  if constexpr (Q < kSpanQueries)
    if (Q < most) attend_from<2 * Q>(job, batch, most, stream);
}

}  // namespace

void CudaDevice::heads(const HeadsJob& job) {
  const GroupedHeads& g = job.heads;
  if (!job.rows.rows) return;
  const size_t head_bytes = static_cast<size_t>(g.head_dim) * sizeof(float);
  const int64_t warps = std::clamp<int64_t>(static_cast<int64_t>(kMostShared / (2 * head_bytes)), 1, 8);
  const int64_t pieces = g.columns() / g.head_dim * job.rows.rows;
  simt::launch(dim3(static_cast<unsigned>(ceil_div(pieces, 2 * warps))), dim3(static_cast<unsigned>(32 * warps)),
               static_cast<size_t>(2 * warps) * head_bytes, stream_, heads_kernel,
               RowJob{.heads = g,
                      .rows = job.rows,
                      .bias = job.bias.data(),
                      .biased = static_cast<int64_t>(job.bias.size()),
                      .q_norm = job.q_norm,
                      .k_norm = job.k_norm,
                      .eps = job.eps,
                      .pages = job.pages,
                      .batch = batch_});
}

void CudaDevice::attend(const GroupedHeads& g, const Mat<float>& rows, const Pages& pages, const Mat<bf16>& out) {
  const AttendJob job{.heads = g,
                      .rows = rows,
                      .pages = pages,
                      .out = out,
                      .batch = batch_,
                      .scale = 1.0f / std::sqrt(static_cast<float>(g.head_dim)),
                      .room = scratch_.attention};
  // The queries of a block lie in shared memory.
  const int most = std::clamp(static_cast<int>(std::bit_floor(8192u / g.head_dim)), 1, kSpanQueries);
  attend_from<1>(job, *host_batch_, most, stream_);
}

}  // namespace kt::SIMT_TABLE
