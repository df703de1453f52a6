// The specification of what latent attention, its sparse selection and sigmoid routing add (see ref.cpp).

#include <limits>
#include <vector>

#include "kernels/cpu/ref.h"

namespace kt::ref {

void rope_pairs(float* x, const float* cosines, const float* sines, int half) {
  for (int i = 0; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = std::fma(a, cosines[i], -(b * sines[i]));
    x[2 * i + 1] = std::fma(b, cosines[i], a * sines[i]);
  }
}

void layer_norm(float* x, const float* w, const float* b, float eps, int n) {
  float sum[16] = {}, squares[16] = {};
  for (int i = 0; i < n; ++i) sum[i % 16] = sum[i % 16] + x[i];
  const float mean = fold(sum) / static_cast<float>(n);
  for (int i = 0; i < n; ++i) {
    const float d = x[i] - mean;
    squares[i % 16] = std::fma(d, d, squares[i % 16]);
  }
  const float r = 1.0f / std::sqrt(fold(squares) / static_cast<float>(n) + eps);
  for (int i = 0; i < n; ++i) x[i] = std::fma((x[i] - mean) * r, w[i], b[i]);
}

namespace {
// Output o and input i of a packed bf16 matrix with k inputs.
int64_t packed_place(int o, int i, int k) {
  const int64_t tile = static_cast<int64_t>(o / kPanel) * ceil_div(k, kTileK) + i / kTileK;
  return tile * kPanel * kTileK + i % kTileK / 2 * kTileK + 2 * (o % kPanel) + i % 2;
}
}  // namespace

void pack_rows(const bf16* const* rows, int count, int columns, bf16* packed) {
  for (int r = 0; r < round_up(count, kPanel); ++r)
    for (int c = 0; c < columns; ++c) packed[packed_place(r, c, columns)] = r < count ? rows[r][c] : bf16{0};
}

void pack_columns(const bf16* const* rows, int count, int columns, bf16* packed) {
  for (int r = 0; r < round_up(count, kTileK); ++r)
    for (int c = 0; c < columns; ++c) packed[packed_place(c, r, count)] = r < count ? rows[r][c] : bf16{0};
}

SoftmaxState softmax_row(const float* scores, float scale, int count, int padded, bf16* p) {
  float top = -std::numeric_limits<float>::infinity(), lane[16] = {};
  for (int i = 0; i < count; ++i) top = scores[i] * scale > top ? scores[i] * scale : top;
  for (int i = 0; i < round_up(padded, kTileK); ++i) {
    p[i] = i < count ? to_bf16(exp_ref(scores[i] * scale - top)) : bf16{0};
    lane[i % 16] = lane[i % 16] + to_float(p[i]);
  }
  return {top, fold(lane)};
}

void index_scores(const float* dots, int64_t ld, const float* weights, int heads, int n, float* out) {
  for (int i = 0; i < n; ++i) {
    float sum = 0.0f;
    for (int h = 0; h < heads; ++h) {
      const float dot = dots[h * ld + i];
      sum = std::fma(weights[h], dot > 0.0f ? dot : 0.0f, sum);
    }
    out[i] = sum;
  }
}

namespace {
// Indices of the k largest, ties to the lower index, in descending order.
std::vector<int> largest(const std::vector<float>& values, int k) {
  std::vector<int> order;
  std::vector<bool> taken(values.size(), false);
  for (int j = 0; j < k; ++j) {
    int best = -1;
    for (int i = 0; i < static_cast<int>(values.size()); ++i)
      if (!taken[i] && (best < 0 || values[i] > values[best])) best = i;
    taken[best] = true;
    order.push_back(best);
  }
  return order;
}
}  // namespace

void sigmoid_top_k(float* logits, const SigmoidRouting& r, int32_t* ids, float* weights) {
  const int group_size = r.experts / r.groups;
  std::vector<float> choice(r.experts), group(r.groups);
  for (int e = 0; e < r.experts; ++e) {
    logits[e] = sigmoid_ref(logits[e]);
    choice[e] = logits[e] + r.bias[e];
  }
  for (int g = 0; g < r.groups; ++g) {
    const std::vector<float> own(choice.begin() + g * group_size, choice.begin() + (g + 1) * group_size);
    const std::vector<int> best = largest(own, group_size < 2 ? group_size : 2);
    group[g] = best.size() < 2 ? own[best[0]] : own[best[0]] + own[best[1]];
  }
  std::vector<bool> kept(r.groups, false);
  for (int g : largest(group, r.kept_groups)) kept[g] = true;
  std::vector<float> candidates;
  std::vector<int> expert;
  for (int e = 0; e < r.experts; ++e)
    if (kept[e / group_size]) candidates.push_back(choice[e]), expert.push_back(e);

  float chosen = 0.0f;
  const std::vector<int> best = largest(candidates, r.top_k);
  for (int j = 0; j < r.top_k; ++j) {
    ids[j] = expert[best[j]];
    weights[j] = logits[ids[j]];
    chosen = chosen + weights[j];
  }
  for (int j = 0; j < r.top_k; ++j) {
    if (r.normalise) weights[j] = weights[j] / (chosen + 1e-20f);
    weights[j] = weights[j] * r.scale;
  }
}

}  // namespace kt::ref
