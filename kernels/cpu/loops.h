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

// ---- weight formats ------------------------------------------------------------------------------------------------

// How the loops read the formats of kernels/format/: a line of a tile as floats, the scales of a group; or, for 8-bit
// activations, a line as bytes with the weights' offset.
struct Bf16Lines {
  static constexpr int kStreams = 4;  // panels that one row is multiplied with at once
  static constexpr bool kIntegers = false;
  static constexpr int kTileBytes = 1024, kScaleBytes = 0;
  static void line(const std::byte* tile, int p, V& even, V& odd) {
    load_line(reinterpret_cast<const bf16*>(tile) + p * kTileK, even, odd);
  }
  static V scale(const std::byte*) { return splat(1.0f); }
};
struct Fp8Lines {
  static constexpr int kStreams = kManyRegisters ? 8 : 4;
  static constexpr bool kIntegers = false;
  static constexpr int kTileBytes = 512, kScaleBytes = 4;
  static void line(const std::byte* tile, int p, V& even, V& odd) { load_fp8_line(tile, p, even, odd); }
  static V scale(const std::byte* s) { return splat(*reinterpret_cast<const float*>(s)); }
};
struct RawInt4Lines {
  static constexpr int kStreams = 4;
  static constexpr bool kIntegers = false;
  static constexpr int kTileBytes = 256, kScaleBytes = 32;
  static void line(const std::byte* tile, int p, V& even, V& odd) { load_int4_line(tile, p, even, odd); }
  static V scale(const std::byte* s) { return load_bf16(reinterpret_cast<const bf16*>(s)); }
};
struct AmxInt4Lines {
  static constexpr int kStreams = 4;
  static constexpr bool kIntegers = true;
  static constexpr int kTileBytes = 256, kScaleBytes = 32, kOffset = 8;
  static Line line(const std::byte* tile, int p) {
    const Line both = load_bytes(tile + p % 4 * 64);
    return p < 4 ? low_nibbles(both) : high_nibbles(both);
  }
};
struct AmxInt8Lines {
  static constexpr int kStreams = 4;
  static constexpr bool kIntegers = true;
  static constexpr int kTileBytes = 512, kScaleBytes = 32, kOffset = 128;
  static Line line(const std::byte* tile, int p) { return load_bytes(tile + p * 64); }
};

// ---- chains of weight tiles ----------------------------------------------------------------------------------------

constexpr int kPrefetchBytes = 2048;
constexpr int kBlockRows = 6;  // that share a weight in registers

// What a chain is over: rows [first, first + rows) of x, some panels of w, tiles [t0, t1), of which t0 starts a group.
struct ChainJob {
  const Rows& x;
  int first, rows;
  const PackedMatrix& w;
  const std::byte* const* panels;
  int t0, t1;
  const std::byte* made;  // the panels as Chains::make left them for all rows, or null
  int block;              // of rows that these panels meet
  int64_t next_bytes;     // of each panel after these that one tile fetches; 0 in the first block
};

// Where to prefetch while the bytes from `at` on of `panels` panels are read: as far ahead, and behind the panels' ends
// at the beginning of those after them.
[[gnu::always_inline]] inline int64_t prefetch_at(const ChainJob& job, int panels, int64_t at) {
  const int64_t bytes = static_cast<int64_t>(job.w.panel_bytes());
  at += kPrefetchBytes;
  return at < bytes ? at : at + (panels - 1) * bytes;
}
// All blocks of rows but the first find their panels in cache. In that time, tile by tile, the next panels are fetched.
[[gnu::always_inline]] inline void prefetch_next(const ChainJob& job, int panel, int panels, int t) {
  const int64_t bytes = static_cast<int64_t>(job.w.panel_bytes());
  const int64_t from = (static_cast<int64_t>(job.block - 1) * job.w.k_tiles() + t) * job.next_bytes;
  for (int64_t at = from; at < from + job.next_bytes; at += 64)
    for (int j = 0; j < panels; ++j) __builtin_prefetch(job.panels[panel + j] + panels * bytes + at);
}

// acc[r][j][16] = result for row r and panel j.
template <class F, int R, int P>
inline void vector_chains(const ChainJob& job, int row, int panel, float* acc, int64_t acc_row) {
  const bf16* x[R];
  for (int r = 0; r < R; ++r) x[r] = job.x.row(job.first + row + r);
  const std::byte* const* panels = job.panels + panel;
  const size_t scales_at = job.w.scales_at();
  const int group = F::kScaleBytes ? job.w.group_tiles : 0;
  V sum[R][P];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < P; ++j) sum[r][j] = splat(0.0f);
  for (int t = job.t0; t < job.t1;) {
    const int end = group && t + group < job.t1 ? t + group : job.t1;
    const int g = group ? t / group : 0;
    V part[R][P];
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < P; ++j) part[r][j] = splat(0.0f);
    for (; t < end; ++t) {
      float xe[R][16], xo[R][16];
      for (int r = 0; r < R; ++r) {
        V e, o;
        load_line(x[r] + t * kTileK, e, o);
        store(xe[r], e);
        store(xo[r], o);
      }
      asm volatile("" : "+m"(xe), "+m"(xo));  // read back one by one, as operands; g++ would shuffle registers instead
      V even[R][P], odd[R][P];
      for (int r = 0; r < R; ++r)
        for (int j = 0; j < P; ++j) even[r][j] = odd[r][j] = splat(0.0f);
#pragma GCC unroll 16
      for (int p = 0; p < kTileK / 2; ++p) {
        for (int j = 0; j < P; ++j) {
          V we, wo;
          if (p * 64 < F::kTileBytes)  // tiles are read in order: two or more ahead
            __builtin_prefetch(panels[j] + static_cast<int64_t>(t) * F::kTileBytes + p * 64 + kPrefetchBytes);
          F::line(panels[j] + static_cast<int64_t>(t) * F::kTileBytes, p, we, wo);
          for (int r = 0; r < R; ++r) {
            even[r][j] = fma(splat(xe[r][p]), we, even[r][j]);
            odd[r][j] = fma(splat(xo[r][p]), wo, odd[r][j]);
          }
        }
      }
      for (int r = 0; r < R; ++r)
        for (int j = 0; j < P; ++j) part[r][j] = add(part[r][j], add(even[r][j], odd[r][j]));
    }
    for (int j = 0; j < P; ++j) {
      const V scale = F::scale(panels[j] + scales_at + g * F::kScaleBytes);
      for (int r = 0; r < R; ++r) sum[r][j] = F::kScaleBytes ? fma(scale, part[r][j], sum[r][j]) : part[r][j];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < P; ++j) store(acc + (row + r) * acc_row + (panel + j) * 16, sum[r][j]);
}

// How integer_chains adds up the products of tile t: dot[r][j] for row r, whose int8 inputs x[r] points at, and panel
// j.
struct VectorProducts {
  template <class F>
  static constexpr bool kKeepsOffset = kDotKeepsOffset;  // of the weights: the sums are larger by it times the inputs'
  template <class F, int R, int P>
  [[gnu::always_inline]] static void add(const ChainJob& job, const std::byte* const* panels, const int8_t* const* x,
                                         int t, I (&dot)[R][P]) {
    const int64_t ahead = prefetch_at(job, P, static_cast<int64_t>(t) * F::kTileBytes);
#pragma GCC unroll 8
    for (int p = 0; p < kTileK / 4; ++p) {
      int quad[R];
      for (int r = 0; r < R; ++r) __builtin_memcpy(&quad[r], x[r] + t * kTileK + 4 * p, 4);
      for (int j = 0; j < P; ++j) {
        if (p * 64 < F::kTileBytes) __builtin_prefetch(panels[j] + ahead + p * 64);
        const Line w = F::line(panels[j] + static_cast<int64_t>(t) * F::kTileBytes, p);
        for (int r = 0; r < R; ++r) dot[r][j] = dot4<F::kOffset>(dot[r][j], w, quad[r]);
      }
    }
  }
};

template <class F, class Products, int R, int P>
inline void integer_chains(const ChainJob& job, int row, int panel, float* acc, int64_t acc_row) {
  const int8_t* x[R];
  const QuantGroup* groups[R];
  for (int r = 0; r < R; ++r) {
    x[r] = job.x.q + job.x.at(job.first + row + r) * job.x.q_stride;
    groups[r] = job.x.groups + job.x.at(job.first + row + r) * job.x.group_stride;
  }
  const std::byte* const* panels = job.panels + panel;
  const size_t scales_at = job.w.scales_at();
  const int group = job.w.group_tiles;
  V sum[R][P];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < P; ++j) sum[r][j] = splat(0.0f);
  for (int t = job.t0; t < job.t1;) {
    const int end = t + group < job.t1 ? t + group : job.t1, g = t / group;
    I dot[R][P];
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < P; ++j) dot[r][j] = zero_i();
    for (; t < end; ++t) {
      prefetch_next(job, panel, P, t);
      Products::template add<F>(job, panels, x, t, dot);
    }
    for (int j = 0; j < P; ++j) {
      const V scale = load_bf16(reinterpret_cast<const bf16*>(panels[j] + scales_at + g * F::kScaleBytes));
      for (int r = 0; r < R; ++r) {
        const I exact =
            Products::template kKeepsOffset<F> ? sub_i(dot[r][j], F::kOffset * groups[r][g].sum) : dot[r][j];
        sum[r][j] = fma(to_float(exact), mul(splat(groups[r][g].scale), scale), sum[r][j]);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < P; ++j) store(acc + (row + r) * acc_row + (panel + j) * 16, sum[r][j]);
}

// Covers rows x panels with blocks like those above: for one row Streams panels (weight streams), for up to Wide rows
// four, for more two.
template <int Streams, int Wide, class Block>
inline void cover(int rows, int panels, const Block& block) {
  int j = 0;
  if (rows == 1)
    for (; j + Streams <= panels; j += Streams) block.template operator()<1, Streams>(0, j);
  for (; rows <= Wide && j + 4 <= panels; j += 4) {
    if (rows == 1) block.template operator()<1, 4>(0, j);
    if (rows == 2) block.template operator()<2, 4>(0, j);
    if constexpr (Wide >= 3)
      if (rows == 3) block.template operator()<3, 4>(0, j);
  }
  for (; j + 2 <= panels; j += 2)
    for (int r = 0; r < rows; r += 6) switch (rows - r) {
        case 5: block.template operator()<5, 2>(r, j); break;
        case 4: block.template operator()<4, 2>(r, j); break;
        case 3: block.template operator()<3, 2>(r, j); break;
        case 2: block.template operator()<2, 2>(r, j); break;
        case 1: block.template operator()<1, 2>(r, j); break;
        default: block.template operator()<6, 2>(r, j); break;
      }
  for (; j < panels; ++j)
    for (int r = 0; r < rows; ++r) block.template operator()<1, 1>(r, j);
}

template <class F, class Products = VectorProducts>
struct VectorChains {
  static constexpr int kRows = kBlockRows, kRowUnit = 1, kMaxPanels = F::kStreams;
  static int panels(int rows) { return rows == 1 ? F::kStreams : rows == 2 ? 4 : 2; }
  static void run(const ChainJob& job, int panels, float* acc) {
    cover<F::kStreams, 2>(job.rows, panels, [&]<int R, int P>(int row, int panel) {
      if constexpr (F::kIntegers)
        integer_chains<F, Products, R, P>(job, row, panel, acc, panels * 16);
      else
        vector_chains<F, R, P>(job, row, panel, acc, panels * 16);
    });
  }
};

double multiply_vectors(bool int8, int64_t rounds);

// The chains of a table without tiles.
struct VectorTable {
  using Bf16 = VectorChains<Bf16Lines>;
  using Fp8 = VectorChains<Fp8Lines>;
  using RawInt4 = VectorChains<RawInt4Lines>;
  using AmxInt4 = VectorChains<AmxInt4Lines>;
  using AmxInt8 = VectorChains<AmxInt8Lines>;
  static double multiply(bool int8, int64_t rounds) { return multiply_vectors(int8, rounds); }
};

// Rows whose inputs stay in cache while all panels pass by.
constexpr int kRowBlock = 192;

// Results of one row and some panels for consecutive slices: slice s, panel j, sixteen outputs at at(s, j).
struct Results {
  const float* data;
  int64_t slice_stride;
  int slices;
  const float* at(int s, int j) const { return data + s * slice_stride + j * kPanel; }
};

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
        for (int t = 0; t < tiles;) {
          int slices = 0;
          for (; slices < kSlices && t < tiles; t += slice, ++slices)
            Chains::run({x, i, rows, w, panels, t, t + slice < tiles ? t + slice : tiles, made, block, next_bytes},
                        count, acc + slices * stride);
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

// ---- attention -----------------------------------------------------------------------------------------------------

void store_kv(const float* key, const float* value, int head_dim, int offset, bf16* page) {
  bf16* values = page + static_cast<int64_t>(head_dim) * kKvBlock + static_cast<int64_t>(offset) * head_dim;
  for (int i = 0; i < head_dim; i += 16) store_bf16(values + i, load(value + i));
  for (int i = 0; i < head_dim; i += 16) {
    bf16 k[16];
    store_bf16(k, load(key + i));
    for (int j = 0; j < 16; ++j) page[static_cast<int64_t>(i + j) * kKvBlock + offset] = k[j];
  }
}

// Scores of Q queries and the 64 keys of one page: a chain over the components in ascending order.
template <int Q>
inline void page_scores(const float* const* q, const bf16* keys, int head_dim, float scale, float* const* scores) {
  constexpr int kVectors = kManyRegisters ? 2 : 1;
  for (int c = 0; c < kKvBlock; c += 16 * kVectors) {
    V s[Q][kVectors];
    for (int i = 0; i < Q; ++i)
      for (int v = 0; v < kVectors; ++v) s[i][v] = splat(0.0f);
    for (int d = 0; d < head_dim; ++d)
      for (int v = 0; v < kVectors; ++v) {
        const V k = load_bf16(keys + d * kKvBlock + c + 16 * v);
        for (int i = 0; i < Q; ++i) s[i][v] = fma(splat(q[i][d]), k, s[i][v]);
      }
    for (int i = 0; i < Q; ++i)
      for (int v = 0; v < kVectors; ++v) store(scores[i] + c + 16 * v, mul(s[i][v], splat(scale)));
  }
}

// out[i][c..c+16W) = chain over the keys [from, to) of p[i][key] * value.
template <int Q, int W>
inline void page_values(const float* const* p, const bf16* values, int head_dim, int c, int from, int to,
                        float* const* out) {
  V acc[Q][W];
  for (int i = 0; i < Q; ++i)
    for (int w = 0; w < W; ++w) acc[i][w] = load(out[i] + c + 16 * w);
  for (int j = from; j < to; ++j) {
    V v[W];
    for (int w = 0; w < W; ++w) v[w] = load_bf16(values + static_cast<int64_t>(j) * head_dim + c + 16 * w);
    for (int i = 0; i < Q; ++i)
      for (int w = 0; w < W; ++w) acc[i][w] = fma(splat(p[i][j]), v[w], acc[i][w]);
  }
  for (int i = 0; i < Q; ++i)
    for (int w = 0; w < W; ++w) store(out[i] + c + 16 * w, acc[i][w]);
}
template <int Q>
inline void page_values(const float* const* p, const bf16* values, int head_dim, int from, int to, float* const* out) {
  constexpr int kVectors = kManyRegisters ? 4 : 1;
  int c = 0;
  for (; c + 16 * kVectors <= head_dim; c += 16 * kVectors)
    page_values<Q, kVectors>(p, values, head_dim, c, from, to, out);
  for (; c < head_dim; c += 16) page_values<Q, 1>(p, values, head_dim, c, from, to, out);
}

template <int Q>
inline void attend_group(const AttentionJob& job, int begin, int span, SoftmaxState* states, float* values) {
  const int d = job.head_dim, start = span * kKvSpan;
  alignas(64) float scores[Q][kKvSpan];
  const float* q[Q];
  float* out[Q];
  int keys[Q], most = 0, least = kKvSpan;  // keys of the span that a query sees
  for (int i = 0; i < Q; ++i) {
    const int query = begin + i, position = job.first + query / job.group;
    q[i] = job.q + query / job.group * job.q_stride + query % job.group * d;
    out[i] = values + static_cast<int64_t>(query) * d;
    for (int c = 0; c < d; c += 16) store(out[i] + c, splat(0.0f));
    const int seen = position - start + 1;
    keys[i] = seen < 0 ? 0 : seen < kKvSpan ? seen : kKvSpan;
    most = keys[i] > most ? keys[i] : most;
    least = keys[i] < least ? keys[i] : least;
  }
  for (int j = 0; j < most; j += kKvBlock) {
    float* to[Q];
    for (int i = 0; i < Q; ++i) to[i] = scores[i] + j;
    page_scores<Q>(q, job.pages + job.blocks[(start + j) / kKvBlock] * job.page_stride, d, job.scale, to);
  }
  for (int i = 0; i < Q; ++i) {
    const V low = splat(-__builtin_inff());
    V top = low;
    for (int j = 0; j < keys[i]; j += 16) top = max(first_lanes(keys[i] - j, load(scores[i] + j), low), top);
    const float m = max_lanes(top);
    V sum = splat(0.0f);
    for (int j = 0; j < keys[i]; j += 16) {
      const V p = first_lanes(keys[i] - j, exp_v(sub(load(scores[i] + j), splat(m))), splat(0.0f));
      store(scores[i] + j, p);
      sum = add(sum, p);
    }
    states[begin + i] = {m, sum_lanes(sum)};
  }
  for (int j = 0; j < most; j += kKvBlock) {
    const bf16* v =
        job.pages + job.blocks[(start + j) / kKvBlock] * job.page_stride + static_cast<int64_t>(d) * kKvBlock;
    const float* p[Q];
    for (int i = 0; i < Q; ++i) p[i] = scores[i] + j;
    const int all = least - j < 0 ? 0 : least - j < kKvBlock ? least - j : kKvBlock;  // keys that every query sees
    page_values<Q>(p, v, d, 0, all, out);
    for (int i = 0; i < Q; ++i) {
      const int own = keys[i] - j < kKvBlock ? keys[i] - j : kKvBlock;
      if (own > all) page_values<1>(p + i, v, d, all, own, out + i);
    }
  }
}

void attend(const AttentionJob& job, int begin, int end, int span, SoftmaxState* states, float* values) {
  int i = begin;
  for (; i + 4 <= end; i += 4) attend_group<4>(job, i, span, states, values);
  for (; i < end; ++i) attend_group<1>(job, i, span, states, values);
}

void merge(SoftmaxState& a, float* a_values, const SoftmaxState& b, const float* b_values, int n) {
  if (b.sum == 0.0f) return;
  const float m = a.max > b.max ? a.max : b.max;
  const float fa = a.sum == 0.0f ? 0.0f : exp_1(a.max - m), fb = exp_1(b.max - m);
  a = {m, __builtin_fmaf(b.sum, fb, a.sum * fa)};
  for (int i = 0; i < n; i += 16)
    store(a_values + i, fma(load(b_values + i), splat(fb), mul(load(a_values + i), splat(fa))));
}

// ---- gated delta net -----------------------------------------------------------------------------------------------

void conv_silu(const float* x, int64_t x_stride, float* history, const float* w, int taps, int channels, int tokens,
               int begin, int end, float* out, int64_t out_stride) {
  for (int c = begin; c < end; c += 16) {
    for (int t = 0; t < tokens; ++t) {
      V sum = splat(0.0f);
      for (int i = 0; i < taps; ++i) {
        const int from = t - (taps - 1) + i;  // negative: before the first token
        const V in = from < 0 ? load(history + static_cast<int64_t>(from + taps - 1) * channels + c)
                              : load(x + from * x_stride + c);
        sum = fma(load(w + static_cast<int64_t>(i) * channels + c), in, sum);
      }
      store(out + t * out_stride + c, silu_v(sum));
    }
    for (int i = 0; i < taps - 1; ++i) {
      const int from = tokens - (taps - 1) + i;
      const V in = from < 0 ? load(history + static_cast<int64_t>(from + taps - 1) * channels + c)
                            : load(x + from * x_stride + c);
      store(history + static_cast<int64_t>(i) * channels + c, in);
    }
  }
}

template <int W>
inline void delta_columns(const DeltaJob& j, int column) {
  for (int t = 0; t < j.tokens; ++t) {
    const float* q = j.q + t * j.qk_stride;
    const float* k = j.k + t * j.qk_stride;
    const V alpha = splat(j.alpha[t * j.gate_stride]), beta = splat(j.beta[t * j.gate_stride]);
    V read[W], delta[W], out[W];
    for (int w = 0; w < W; ++w) read[w] = out[w] = splat(0.0f);
    for (int i = 0; i < j.key_dim; ++i) {
      const float* s = j.state + static_cast<int64_t>(i) * j.value_dim + column;
      for (int w = 0; w < W; ++w) read[w] = fma(mul(load(s + 16 * w), alpha), splat(k[i]), read[w]);
    }
    for (int w = 0; w < W; ++w) delta[w] = mul(beta, sub(load(j.v + t * j.v_stride + column + 16 * w), read[w]));
    for (int i = 0; i < j.key_dim; ++i) {
      float* s = j.state + static_cast<int64_t>(i) * j.value_dim + column;
      for (int w = 0; w < W; ++w) {
        const V updated = fma(splat(k[i]), delta[w], mul(load(s + 16 * w), alpha));
        store(s + 16 * w, updated);
        out[w] = fma(updated, splat(q[i]), out[w]);
      }
    }
    for (int w = 0; w < W; ++w) store(j.out + t * j.out_stride + column + 16 * w, out[w]);
  }
}

void delta_rule(const DeltaJob& job, int column, int columns) {
  constexpr int kVectors = kManyRegisters ? 4 : 2;
  int c = column;
  for (; c + 16 * kVectors <= column + columns; c += 16 * kVectors) delta_columns<kVectors>(job, c);
  for (; c < column + columns; c += 16) delta_columns<1>(job, c);
}

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
