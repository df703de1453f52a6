// The loops of latent attention, its sparse selection and sigmoid routing; included by loops.h.
// The arithmetic is that of ref_mla.cpp, operation by operation.

void rope_pairs(float* x, const float* cosines, const float* sines, int half) {
  for (int i = 0; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = __builtin_fmaf(a, cosines[i], -(b * sines[i]));
    x[2 * i + 1] = __builtin_fmaf(b, cosines[i], a * sines[i]);
  }
}

void layer_norm(float* x, const float* w, const float* b, float eps, int n) {
  V sum = splat(0.0f), squares = splat(0.0f);
  for (int i = 0; i < n; i += 16) sum = add(sum, load(x + i));
  const V mean = splat(sum_lanes(sum) / static_cast<float>(n));
  for (int i = 0; i < n; i += 16) {
    const V d = sub(load(x + i), mean);
    squares = fma(d, d, squares);
  }
  const V r = splat(inverse_root(sum_lanes(squares) / static_cast<float>(n) + eps));
  for (int i = 0; i < n; i += 16) store(x + i, fma(mul(sub(load(x + i), mean), r), load(w + i), load(b + i)));
}

// ---- cached rows as weights ----------------------------------------------------------------------------------------

alignas(64) constexpr bf16 kNoRow[kTileK] = {};

void pack_rows(const bf16* const* rows, int count, int columns, bf16* packed) {
  for (int r = 0; r < count; r += kPanel)
    for (int c = 0; c < columns; c += kTileK, packed += kPanel * kTileK) {
      const bf16* line[kPanel];
      for (int i = 0; i < kPanel; ++i) line[i] = r + i < count ? rows[r + i] + c : kNoRow;
      transpose_pairs(line, packed);
    }
}

// Two panels at a time, so that a cache line of a row is read once.
void pack_columns(const bf16* const* rows, int count, int columns, bf16* packed) {
  const int64_t panel = static_cast<int64_t>((count + kTileK - 1) / kTileK) * kPanel * kTileK;
  for (int c = 0; c < columns; c += 2 * kPanel, packed += 2 * panel) {
    bf16* line = packed;
    for (int r = 0; r < (count + kTileK - 1) / kTileK * kTileK; r += 2, line += kTileK) {
      const bf16* even = r < count ? rows[r] + c : kNoRow;
      const bf16* odd = r + 1 < count ? rows[r + 1] + c : kNoRow;
      interleave(even, odd, line);
      interleave(even + kPanel, odd + kPanel, line + panel);
    }
  }
}

SoftmaxState softmax_row(const float* scores, float scale, int count, int padded, bf16* p) {
  const V low = splat(-__builtin_inff()), s = splat(scale);
  V top = low, sum = splat(0.0f);
  for (int i = 0; i < count; i += 16) top = max(first_lanes(count - i, mul(load(scores + i), s), low), top);
  const float m = max_lanes(top);
  int i = 0;
  for (; i < count; i += 16) {
    const V e = exp_v(sub(mul(load(scores + i), s), splat(m)));
    store_bf16(p + i, first_lanes(count - i, e, splat(0.0f)));
    sum = add(sum, load_bf16(p + i));
  }
  for (; i < (padded + kTileK - 1) / kTileK * kTileK; i += 16) store_bf16(p + i, splat(0.0f));
  return {m, sum_lanes(sum)};
}

void index_scores(const float* dots, int64_t ld, const float* weights, int heads, int n, float* out) {
  for (int i = 0; i < n; i += 16) {
    V sum = splat(0.0f);
    for (int h = 0; h < heads; ++h) sum = fma(splat(weights[h]), max(load(dots + h * ld + i), splat(0.0f)), sum);
    store(out + i, sum);
  }
}

// ---- routing -------------------------------------------------------------------------------------------------------

// Inserts i with its value into a descending list of at most `room`; what does not compare greater goes behind.
inline void insert_descending(int i, float value, int room, int& found, int32_t* ids, float* values) {
  if (found == room && !(value > values[found - 1])) return;
  int at = found < room ? found++ : found - 1;
  for (; at > 0 && value > values[at - 1]; --at) ids[at] = ids[at - 1], values[at] = values[at - 1];
  ids[at] = i;
  values[at] = value;
}

void sigmoid_top_k(float* logits, const SigmoidRouting& r, int32_t* ids, float* weights) {
  sigmoid(logits, r.experts, logits);
  const int group_size = r.experts / r.groups;
  bool kept[kMaxExpertGroups] = {};
  int32_t best_groups[kMaxExpertGroups];
  float group_scores[kMaxExpertGroups];
  int found = 0;
  for (int g = 0; g < r.groups; ++g) {
    int32_t best[2];
    float top[2];
    int own = 0;
    for (int e = g * group_size; e < (g + 1) * group_size; ++e)
      insert_descending(e, logits[e] + r.bias[e], 2, own, best, top);
    insert_descending(g, own < 2 ? top[0] : top[0] + top[1], r.kept_groups, found, best_groups, group_scores);
  }
  for (int g = 0; g < found; ++g) kept[best_groups[g]] = true;

  found = 0;
  for (int e = 0; e < r.experts; ++e)
    if (kept[e / group_size]) insert_descending(e, logits[e] + r.bias[e], r.top_k, found, ids, weights);
  float chosen = 0.0f;
  for (int j = 0; j < r.top_k; ++j) {
    weights[j] = logits[ids[j]];
    chosen = chosen + weights[j];
  }
  for (int j = 0; j < r.top_k; ++j) {
    if (r.normalise) weights[j] = weights[j] / (chosen + 1e-20f);
    weights[j] = weights[j] * r.scale;
  }
}
