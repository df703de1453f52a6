// The loop nests of the vector tables, written once over V (sixteen floats, see vec_avx512.h and vec_avx2.h).
// Included inside the unnamed namespace of a file that is compiled for one instruction set, so that nothing in here
// becomes a symbol that the linker could pick for the rest of the program.
// The arithmetic is that of ref.cpp, operation by operation: every table gives the same bits.

// ---- elementary functions ------------------------------------------------------------------------------------------

// exp by x = n ln2 + r, |r| <= ln2/2, and Taylor's polynomial of degree 7; relative error below 2 ulp. Arguments below
// -87.3 count as -87.3, above 88.3 as 88.3.
inline V exp_v(V x) {
  x = max(splat(-87.3f), min(splat(88.3f), x));  // in this order NaN stays NaN
  const V n = round_even(mul(x, splat(1.44269504f)));
  const V r = fma(n, splat(-1.42860677e-6f), fma(n, splat(-0.693145752f), x));
  V p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  return mul(p, exp2_whole(n));
}
inline V sigmoid_v(V x) { return div(splat(1.0f), add(splat(1.0f), exp_v(sub(splat(0.0f), x)))); }
inline V silu_v(V x) { return mul(x, sigmoid_v(x)); }
inline float exp_1(float x) {
  float out[16];
  store(out, exp_v(splat(x)));
  return out[0];
}

// The first n of 16 values; the rest 0.
inline V load_part(const float* p, int n) {
  if (n >= 16) return load(p);
  float tmp[16] = {};
  for (int i = 0; i < n; ++i) tmp[i] = p[i];
  return load(tmp);
}

#include "kernels/cpu/chain_loops.h"

// ---- matrix products ----------------------------------------------------------------------------------------------

// Rows whose inputs stay in cache while all panels pass by.
constexpr int kRowBlock = 192;

// Results of one row and some panels for consecutive slices: slice s, panel j, sixteen outputs at at(s, j).
struct Results {
  const float* data;
  int64_t slice_stride;
  int slices;
  const float* at(int s, int j) const { return data + s * slice_stride + j * kPanel; }
};

// `count` rows of x from `first` on, as rows of their own.
inline Rows rows_from(Rows x, int first, int count) {
  x.count = count;
  if (x.index) {
    x.index += first;
    return x;
  }
  if (x.data) x.data += first * x.stride;
  if (x.q) x.q += first * x.q_stride;
  if (x.groups) x.groups += first * x.group_stride;
  return x;
}

// Calls done(i, p, count, results) with the results of row i and panels [p, p + count) for every row, panel and slice
// of `slice` tiles, slices of one row and panel in ascending order.
template <class Chains, class Done>
inline void sweep(const Rows& x, const PackedMatrix& w, int begin, int end, int slice, Done done) {
  const int tiles = w.k_tiles();
  const int64_t panel_bytes = static_cast<int64_t>(w.panel_bytes());
  constexpr int kSlices = 4;  // at once
  alignas(64) float acc[kSlices * Chains::kRows * Chains::kMaxPanels * 16];
  for (int i0 = 0; i0 < x.count; i0 += kRowBlock) {
    const int i1 = i0 + kRowBlock < x.count ? i0 + kRowBlock : x.count;
    const int group = Chains::panels(i1 - i0), blocks = static_cast<int>(ceil_div(i1 - i0, Chains::kRows));
    const int step = static_cast<int>(round_up(ceil_div(i1 - i0, blocks), Chains::kRowUnit));
    Rows block_rows = rows_from(x, i0, i1 - i0);
    if constexpr (requires { Chains::rows; }) block_rows = Chains::rows(block_rows, w);
    for (int p = begin; p < end; p += group) {
      const int count = end - p < group ? end - p : group;
      const std::byte* panels[Chains::kMaxPanels];
      for (int j = 0; j < count; ++j) panels[j] = w.panel(p + j);
      const std::byte* made = nullptr;
      if constexpr (requires { Chains::make; }) made = Chains::make(w, panels, count, i1 - i0);
      for (int i = i0; i < i1; i += step) {
        const int rows = i1 - i < step ? i1 - i : step, block = (i - i0) / step;
        const int64_t next_bytes = block ? round_up(ceil_div(panel_bytes, (blocks - 1) * tiles), 64) : 0;
        const int64_t stride = static_cast<int64_t>(rows) * count * 16;
        ChainJob job = {.x = block_rows,
                        .first = i - i0,
                        .rows = rows,
                        .w = w,
                        .panels = panels,
                        .t0 = 0,
                        .t1 = 0,
                        .panel_bytes = panel_bytes,
                        .made = made,
                        .block = block,
                        .next_bytes = next_bytes,
                        .next_from = (block - 1) * tiles * next_bytes};
        while (job.t1 < tiles) {
          int slices = 0;
          for (; slices < kSlices && job.t1 < tiles; ++slices) {
            job.t0 = job.t1;
            job.t1 = job.t0 + slice < tiles ? job.t0 + slice : tiles;
            Chains::run(job, count, acc + slices * stride);
          }
          for (int r = 0; r < rows; ++r) done(i + r, p, count, Results{acc + r * count * 16, stride, slices});
        }
      }
    }
  }
}
template <class Table, class Done>
inline void sweep_format(const Rows& x, const PackedMatrix& w, int begin, int end, int slice, Done done) {
  switch (w.format) {
    case Format::BF16: return sweep<typename Table::Bf16>(x, w, begin, end, slice, done);
    case Format::FP8: return sweep<typename Table::Fp8>(x, w, begin, end, slice, done);
    case Format::RAWINT4: return sweep<typename Table::RawInt4>(x, w, begin, end, slice, done);
    case Format::AMXINT4: return sweep<typename Table::AmxInt4>(x, w, begin, end, slice, done);
    case Format::AMXINT8: return sweep<typename Table::AmxInt8>(x, w, begin, end, slice, done);
  }
}

template <class Table>
void matmul(const Rows& x, const PackedMatrix& w, int begin, int end, float* out, int64_t ldo) {
  sweep_format<Table>(x, w, begin, end, w.k_tiles(), [&](int i, int p, int count, const Results& sums) {
    for (int j = 0; j < count; ++j) store(out + i * ldo + (p + j) * kPanel, load(sums.at(0, j)));
  });
}

template <class Table>
void swiglu(const Rows& x, const PackedMatrix& gate_up, int begin, int end, bf16* h, int64_t ldh) {
  sweep_format<Table>(x, gate_up, 2 * begin, 2 * end, gate_up.k_tiles(),
                      [&](int i, int p, int count, const Results& sums) {
                        for (int j = 0; j < count; j += 2) {
                          const V gate = load(sums.at(0, j)), up = load(sums.at(0, j + 1));
                          store_bf16(h + i * ldh + (p + j) / 2 * kPanel, mul(silu_v(gate), up));
                        }
                      });
}

template <class Table>
void matmul_add(const Rows& x, const PackedMatrix& w, int slice, int begin, int end, const float* scale, double* out,
                int64_t ldo, const int32_t* out_index) {
  sweep_format<Table>(x, w, begin, end, slice / kTileK, [&](int i, int p, int count, const Results& sums) {
    const auto at = [&](int row) { return out + (out_index ? out_index[row] : row) * ldo; };
    double* row = at(i) + p * kPanel;
    // Of the next block's row; behind the last block the first one's next panels.
    const double* next = at((i + kBlockRows) % x.count) + (i + kBlockRows < x.count ? p : p + count) * kPanel;
    for (int j = 0; j < count * kPanel; j += 8) __builtin_prefetch(next + j, 1);
    const float s = scale ? scale[i] : 1.0f;
    for (int j = 0; j < count; ++j) {
      D total = load(row + j * kPanel);
      for (int n = 0; n < sums.slices; ++n) total = add(total, scaled_to_grid(load(sums.at(n, j)), s));
      store(row + j * kPanel, total);
    }
  });
}

void quantize(const bf16* x, int k_tiles, int group_tiles, int8_t* q, QuantGroup* groups) {
  for (int t = 0; t < k_tiles; t += group_tiles, ++groups) {
    const int from = t * kTileK, to = (t + group_tiles < k_tiles ? t + group_tiles : k_tiles) * kTileK;
    V top = splat(0.0f);
    for (int i = from; i < to; i += 16) {
      const V v = load_bf16(x + i);
      top = max(top, max(v, sub(splat(0.0f), v)));
    }
    const float largest = max_lanes(top);
    const V inverse = splat(largest > 0.0f ? 127.0f / largest : 0.0f);
    int sum = 0;
    for (int i = from; i < to; i += 16) sum += store_int8(q + i, round_even(mul(load_bf16(x + i), inverse)));
    *groups = {largest / 127.0f, sum};
  }
}

// ---- rows ----------------------------------------------------------------------------------------------------------

inline float sum_of_squares(const float* x, int n) {
  V sum = splat(0.0f);
  for (int i = 0; i < n; i += 16) {
    const V v = load_part(x + i, n - i);
    sum = fma(v, v, sum);
  }
  return sum_lanes(sum);
}
// 1 / sqrt, both correctly rounded.
inline float inverse_root(float x) { return 1.0f / __builtin_sqrtf(x); }

void rms_norm(const float* x, const float* w, float eps, int n, bf16* out) {
  const V r = splat(inverse_root(sum_of_squares(x, n) / static_cast<float>(n) + eps));
  const int whole = n / 16 * 16;
  for (int i = 0; i < whole; i += 16) store_bf16(out + i, mul(mul(load(x + i), r), load(w + i)));
  if (whole < n) store_bf16(out + whole, mul(mul(load_part(x + whole, n - whole), r), load_part(w + whole, n - whole)));
  for (int i = (n + 15) / 16 * 16; i < (n + 31) / 32 * 32; i += 16) store_bf16(out + i, splat(0.0f));
}

void head_norm(float* x, const float* w, float eps, int n) {
  const V r = splat(inverse_root(sum_of_squares(x, n) / static_cast<float>(n) + eps));
  for (int i = 0; i < n; i += 16) store(x + i, mul(mul(load(x + i), r), load(w + i)));
}

void l2_norm(float* x, float eps, float scale, int n) {
  const V r = splat(inverse_root(sum_of_squares(x, n) + eps) * scale);
  for (int i = 0; i < n; i += 16) store(x + i, mul(load(x + i), r));
}

void gated_norm(const float* x, const float* w, const float* z, float eps, int n, bf16* out) {
  const V r = splat(inverse_root(sum_of_squares(x, n) / static_cast<float>(n) + eps));
  for (int i = 0; i < n; i += 16) store_bf16(out + i, mul(mul(mul(load(x + i), r), load(w + i)), silu_v(load(z + i))));
}

void rope(float* x, const float* cosines, const float* sines, int half) {
  for (int i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = __builtin_fmaf(a, cosines[i], -(b * sines[i]));
    x[i + half] = __builtin_fmaf(b, cosines[i], a * sines[i]);
  }
}

void gate_output(const float* x, const float* gate, int n, bf16* out) {
  for (int i = 0; i < n; i += 16) store_bf16(out + i, gate ? mul(load(x + i), sigmoid_v(load(gate + i))) : load(x + i));
}

void sigmoid(const float* x, int n, float* out) {
  for (int i = 0; i < n; i += 16) {
    float tmp[16];
    store(tmp, sigmoid_v(load_part(x + i, n - i)));
    for (int j = 0; j < 16 && i + j < n; ++j) out[i + j] = tmp[j];
  }
}

void softmax_top_k(const float* logits, int experts, int top_k, bool normalise, int32_t* ids, float* weights) {
  int found = 0;
  for (int e = 0; e < experts; ++e) {  // insertion into the descending list
    if (found == top_k && !(logits[e] > logits[ids[found - 1]])) continue;
    int at = found < top_k ? found++ : found - 1;
    for (; at > 0 && logits[e] > logits[ids[at - 1]]; --at) ids[at] = ids[at - 1];
    ids[at] = e;
  }
  const float top = logits[ids[0]];
  V sum = splat(0.0f);
  for (int e = 0; e < experts; e += 16) {
    const V p = exp_v(sub(load_part(logits + e, experts - e), splat(top)));
    sum = add(sum, first_lanes(experts - e, p, splat(0.0f)));
  }
  const float total = sum_lanes(sum);
  float chosen = 0.0f;
  for (int j = 0; j < top_k; ++j) {
    weights[j] = exp_1(logits[ids[j]] - top) / total;
    chosen += weights[j];
  }
  if (normalise)
    for (int j = 0; j < top_k; ++j) weights[j] = weights[j] / chosen;
}

#include "kernels/cpu/mixer_loops.h"
#include "kernels/cpu/mla_loops.h"

// ---- limits of the hardware, for benchmarks ------------------------------------------------------------------------

template <int S>
inline uint64_t read_streams(const std::byte* data, size_t bytes) {
  const size_t part = bytes / S / 256 * 256;
  V sum[S];
  for (int s = 0; s < S; ++s) sum[s] = splat(0.0f);
  for (size_t at = 0; at < part; at += 256)
    for (int s = 0; s < S; ++s) {
      const std::byte* p = data + s * part + at;
      __builtin_prefetch(p + 2048);
      for (int i = 0; i < 4; ++i) sum[s] = either(sum[s], load(reinterpret_cast<const float*>(p + 64 * i)));
    }
  uint64_t total = 0;
  for (int s = 0; s < S; ++s) {
    uint32_t lanes[16];
    store(reinterpret_cast<float*>(lanes), sum[s]);
    for (uint32_t l : lanes) total += l;
  }
  return total;
}
uint64_t read(const std::byte* data, size_t bytes, int streams) {
  return streams >= 8   ? read_streams<8>(data, bytes)
         : streams >= 4 ? read_streams<4>(data, bytes)
                        : read_streams<1>(data, bytes);
}

// Rounds of as many independent sums as there are registers for: twelve hide the latency of any multiply-add.
template <class Sum, class Multiply>
inline double multiply_sums(int64_t rounds, Sum zero, Multiply multiply) {
  Sum a = zero, b = zero, c = zero, d = zero, e = zero, f = zero, g = zero, h = zero, i = zero, j = zero, k = zero,
      l = zero;  // one by one: g++ keeps an array in memory
  for (int64_t n = 0; n < rounds; ++n) {
    multiply(a), multiply(b), multiply(c), multiply(d), multiply(e), multiply(f);
    if (kManyRegisters) multiply(g), multiply(h), multiply(i), multiply(j), multiply(k), multiply(l);
  }
  return static_cast<double>(rounds) * (kManyRegisters ? 12 : 6);
}
double multiply_vectors(bool int8, int64_t rounds) {
  const V x = splat(1.0f), y = splat(1e-9f);
  Line w = load_bytes(reinterpret_cast<const std::byte*>(&x));
  if (int8)
    return 16 * 8 * multiply_sums(rounds, zero_i(), [&w](I& sum) {
             keep(w);  // where a product takes several instructions, all of them count
             keep(sum = dot4<0>(sum, w, 0x01010101));
           });
  return 16 * 2 * multiply_sums(rounds, splat(0.0f), [x, y](V& sum) { keep(sum = fma(x, y, sum)); });
}

template <class Table>
constexpr Ops make_table(std::string_view name) {
  return {.name = name,
          .quantize = quantize,
          .matmul = matmul<Table>,
          .swiglu = swiglu<Table>,
          .matmul_add = matmul_add<Table>,
          .rms_norm = rms_norm,
          .head_norm = head_norm,
          .l2_norm = l2_norm,
          .gated_norm = gated_norm,
          .rope = rope,
          .rope_pairs = rope_pairs,
          .layer_norm = layer_norm,
          .gate_output = gate_output,
          .store_kv = store_kv,
          .attend = attend,
          .merge = merge,
          .pack_rows = pack_rows,
          .pack_columns = pack_columns,
          .softmax_row = softmax_row,
          .index_scores = index_scores,
          .conv_silu = conv_silu,
          .delta_rule = delta_rule,
          .softmax_top_k = softmax_top_k,
          .sigmoid_top_k = sigmoid_top_k,
          .sigmoid = sigmoid,
          .read = read,
          .multiply = Table::multiply};
}
