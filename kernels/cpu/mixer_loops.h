// The loops of attention over pages of the KV cache and of the gated delta net; included by loops.h.

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
