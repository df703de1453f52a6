// How the vector tables read the weight formats, and the chains of kernels/weight.h over them; included by loops.h.
// chains_avx2.h and dots_avx512.h have others for processors with fewer registers or an instruction for pairs.

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
  int64_t panel_bytes;    // of w
  const std::byte* made;  // the panels as Chains::make left them for all rows, or null
  int block;              // of rows that these panels meet
  int64_t next_bytes;     // of each panel after these that one tile fetches; 0 in the first block
  int64_t next_from;      // where tile 0 begins to
};

// Where to prefetch while the bytes from `at` on of `panels` panels are read: as far ahead, and behind the panels' ends
// at the beginning of those after them.
[[gnu::always_inline]] inline int64_t prefetch_at(const ChainJob& job, int panels, int64_t at) {
  at += kPrefetchBytes;
  return at < job.panel_bytes ? at : at + (panels - 1) * job.panel_bytes;
}
// All blocks of rows but the first find their panels in cache. In that time, tile by tile, the next panels are fetched.
[[gnu::always_inline]] inline void prefetch_next(const ChainJob& job, int panel, int panels, int t) {
  const int64_t from = job.next_from + t * job.next_bytes;
  for (int64_t at = from; at < from + job.next_bytes; at += 64)
    for (int j = 0; j < panels; ++j) __builtin_prefetch(job.panels[panel + j] + panels * job.panel_bytes + at);
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
