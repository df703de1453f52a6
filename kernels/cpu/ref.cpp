// The specification: every operation as plain loops. The order of every sum that is written here is the order that all
// tables keep (compiled without contraction; std::fma is one rounding).

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/ref.h"
#include "kernels/cpu/tables.h"
#include "kernels/format/amxint.h"
#include "kernels/format/bf16.h"
#include "kernels/format/fp8.h"
#include "kernels/format/rawint4.h"

namespace kt {
namespace {

using namespace ref;

float silu_ref(float x) { return x * sigmoid_ref(x); }

float sum_of_squares(const float* x, int n) {
  float lane[16] = {};
  for (int i = 0; i < n; ++i) lane[i % 16] = std::fma(x[i], x[i], lane[i % 16]);
  return fold(lane);
}

// Chains of the formats with bf16 activations: groups of tiles from zero, then scaled.
template <class F>
float chain(const Rows& x, int row, const PackedMatrix& w, int out, int k0, int k1) {
  const std::byte* panel = w.panel(out / kPanel);
  const bf16* in = x.row(row);
  const int r = out % kPanel, group = w.group_tiles ? w.group_tiles * kTileK : k1 - k0;
  float sum = 0.0f;
  for (int g0 = k0; g0 < k1; g0 += group) {
    float part = 0.0f;
    for (int k = g0; k < g0 + group && k < k1; k += kTileK) {
      const std::byte* tile = panel + static_cast<int64_t>(k / kTileK) * info(w.format).tile_bytes;
      float even = 0.0f, odd = 0.0f;
      for (int c = 0; c < kTileK; c += 2) {
        even = std::fma(to_float(in[k + c]), F::weight(tile, r, c), even);
        odd = std::fma(to_float(in[k + c + 1]), F::weight(tile, r, c + 1), odd);
      }
      part = part + (even + odd);
    }
    const std::byte* scales = panel + w.scales_at() + g0 / group * info(w.format).scale_bytes;
    sum = w.group_tiles ? std::fma(F::scale(scales, r), part, sum) : part;
  }
  return sum;
}
// Of the formats with 8-bit activations: exact integers inside a group.
template <class F>
float integer_chain(const Rows& x, int row, const PackedMatrix& w, int out, int k0, int k1) {
  const std::byte* panel = w.panel(out / kPanel);
  const int8_t* in = x.q + x.at(row) * x.q_stride;
  const QuantGroup* groups = x.groups + x.at(row) * x.group_stride;
  const int r = out % kPanel, group = w.group_tiles * kTileK;
  float sum = 0.0f;
  for (int g0 = k0; g0 < k1; g0 += group) {
    int32_t dot = 0;
    for (int k = g0; k < g0 + group && k < k1; ++k)
      dot += in[k] * F::get(panel + static_cast<int64_t>(k / kTileK) * info(w.format).tile_bytes, r, k % kTileK);
    const int g = g0 / group;
    sum = std::fma(static_cast<float>(dot),
                   groups[g].scale * F::scale(panel + w.scales_at() + g * info(w.format).scale_bytes, r), sum);
  }
  return sum;
}
float chain(const Rows& x, int row, const PackedMatrix& w, int out, int k0, int k1) {
  switch (w.format) {
    case Format::BF16: return chain<Bf16Format>(x, row, w, out, k0, k1);
    case Format::FP8: return chain<Fp8Format>(x, row, w, out, k0, k1);
    case Format::RAWINT4: return chain<RawInt4Format>(x, row, w, out, k0, k1);
    case Format::AMXINT4: return integer_chain<AmxInt4Format>(x, row, w, out, k0, k1);
    case Format::AMXINT8: return integer_chain<AmxInt8Format>(x, row, w, out, k0, k1);
  }
  return 0.0f;
}

void quantize(const bf16* x, int k_tiles, int group_tiles, int8_t* q, QuantGroup* groups) {
  for (int t = 0; t < k_tiles; t += group_tiles, ++groups) {
    const int from = t * kTileK, to = (t + group_tiles < k_tiles ? t + group_tiles : k_tiles) * kTileK;
    float largest = 0.0f;
    for (int i = from; i < to; ++i) largest = std::fmax(largest, std::fabs(to_float(x[i])));
    const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    int32_t sum = 0;
    for (int i = from; i < to; ++i) {
      q[i] = static_cast<int8_t>(std::nearbyint(to_float(x[i]) * inverse));
      sum += q[i];
    }
    *groups = {largest / 127.0f, sum};
  }
}

void matmul(const Rows& x, const PackedMatrix& w, int begin, int end, float* out, int64_t ldo) {
  for (int i = 0; i < x.count; ++i)
    for (int n = begin * kPanel; n < end * kPanel; ++n) out[i * ldo + n] = chain(x, i, w, n, 0, w.k_tiles() * kTileK);
}

void swiglu(const Rows& x, const PackedMatrix& w, int begin, int end, bf16* h, int64_t ldh) {
  const int k = w.k_tiles() * kTileK;
  for (int i = 0; i < x.count; ++i)
    for (int n = begin * kPanel; n < end * kPanel; ++n) {
      const int gate_row = n / kPanel * 2 * kPanel + n % kPanel;
      const float gate = chain(x, i, w, gate_row, 0, k), up = chain(x, i, w, gate_row + kPanel, 0, k);
      h[i * ldh + n] = to_bf16(silu_ref(gate) * up);
    }
}

void matmul_add(const Rows& x, const PackedMatrix& w, int slice, int begin, int end, const float* scale, double* out,
                int64_t ldo, const int32_t* out_index) {
  const int k = w.k_tiles() * kTileK;
  for (int i = 0; i < x.count; ++i)
    for (int n = begin * kPanel; n < end * kPanel; ++n)
      for (int k0 = 0; k0 < k; k0 += slice) {
        const float y = chain(x, i, w, n, k0, k0 + slice < k ? k0 + slice : k);
        const double s = scale ? scale[i] : 1.0f;
        out[(out_index ? out_index[i] : i) * ldo + n] += to_grid(s * y);
      }
}

void rms_norm(const float* x, const float* w, float eps, int n, bf16* out) {
  const float r = 1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps);
  for (int i = 0; i < n; ++i) out[i] = to_bf16(x[i] * r * w[i]);
  for (int i = n; i < round_up(n, 32); ++i) out[i] = 0;
}
void head_norm(float* x, const float* w, float eps, int n) {
  const float r = 1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps);
  for (int i = 0; i < n; ++i) x[i] = x[i] * r * w[i];
}
void l2_norm(float* x, float eps, float scale, int n) {
  const float r = 1.0f / std::sqrt(sum_of_squares(x, n) + eps) * scale;
  for (int i = 0; i < n; ++i) x[i] = x[i] * r;
}
void gated_norm(const float* x, const float* w, const float* z, float eps, int n, bf16* out) {
  const float r = 1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps);
  for (int i = 0; i < n; ++i) out[i] = to_bf16(x[i] * r * w[i] * silu_ref(z[i]));
}
void rope(float* x, const float* cosines, const float* sines, int half) {
  for (int i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = std::fma(a, cosines[i], -(b * sines[i]));
    x[i + half] = std::fma(b, cosines[i], a * sines[i]);
  }
}
void gate_output(const float* x, const float* gate, int n, bf16* out) {
  for (int i = 0; i < n; ++i) out[i] = to_bf16(gate ? x[i] * sigmoid_ref(gate[i]) : x[i]);
}
void sigmoid(const float* x, int n, float* out) {
  for (int i = 0; i < n; ++i) out[i] = sigmoid_ref(x[i]);
}

void store_kv(const float* key, const float* value, int head_dim, int offset, bf16* page) {
  for (int i = 0; i < head_dim; ++i) {
    page[i * kKvBlock + offset] = to_bf16(key[i]);
    page[(kKvBlock + offset) * head_dim + i] = to_bf16(value[i]);
  }
}

void attend(const AttentionJob& job, int begin, int end, int span, SoftmaxState* states, float* values) {
  const int d = job.head_dim;
  for (int query = begin; query < end; ++query) {
    const float* q = job.q + query / job.group * job.q_stride + query % job.group * d;
    const int position = job.first + query / job.group;
    float* out = values + static_cast<int64_t>(query) * d;
    for (int c = 0; c < d; ++c) out[c] = 0.0f;
    auto page_of = [&](int key) { return job.pages + job.blocks[key / kKvBlock] * job.page_stride; };

    float score[kKvSpan], top = -std::numeric_limits<float>::infinity(), lane[16] = {};
    int keys = 0;
    for (int key = span * kKvSpan; key < (span + 1) * kKvSpan && key <= position; ++key, ++keys) {
      float s = 0.0f;
      for (int c = 0; c < d; ++c) s = std::fma(q[c], to_float(page_of(key)[c * kKvBlock + key % kKvBlock]), s);
      score[keys] = s * job.scale;
      top = score[keys] > top ? score[keys] : top;
    }
    for (int j = 0; j < keys; ++j) {
      const int key = span * kKvSpan + j;
      const float p = exp_ref(score[j] - top);
      lane[j % 16] = lane[j % 16] + p;
      for (int c = 0; c < d; ++c)
        out[c] = std::fma(p, to_float(page_of(key)[(kKvBlock + key % kKvBlock) * d + c]), out[c]);
    }
    states[query] = {top, fold(lane)};
  }
}

void merge(SoftmaxState& a, float* a_values, const SoftmaxState& b, const float* b_values, int n) {
  if (b.sum == 0.0f) return;
  const float m = a.max > b.max ? a.max : b.max;
  const float fa = a.sum == 0.0f ? 0.0f : exp_ref(a.max - m), fb = exp_ref(b.max - m);
  a = {m, std::fma(b.sum, fb, a.sum * fa)};
  for (int i = 0; i < n; ++i) a_values[i] = std::fma(b_values[i], fb, a_values[i] * fa);
}

void conv_silu(const float* x, int64_t x_stride, float* history, const float* w, int taps, int channels, int tokens,
               int begin, int end, float* out, int64_t out_stride) {
  for (int c = begin; c < end; ++c) {
    std::vector<float> in(taps - 1 + tokens);  // history, then the tokens
    for (int i = 0; i < taps - 1; ++i) in[i] = history[static_cast<int64_t>(i) * channels + c];
    for (int t = 0; t < tokens; ++t) in[taps - 1 + t] = x[t * x_stride + c];
    for (int t = 0; t < tokens; ++t) {
      float sum = 0.0f;
      for (int i = 0; i < taps; ++i) sum = std::fma(w[static_cast<int64_t>(i) * channels + c], in[t + i], sum);
      out[t * out_stride + c] = silu_ref(sum);
    }
    for (int i = 0; i < taps - 1; ++i) history[static_cast<int64_t>(i) * channels + c] = in[tokens + i];
  }
}

void delta_rule(const DeltaJob& j, int column, int columns) {
  for (int t = 0; t < j.tokens; ++t) {
    const float* q = j.q + t * j.qk_stride;
    const float* k = j.k + t * j.qk_stride;
    const float alpha = j.alpha[t * j.gate_stride], beta = j.beta[t * j.gate_stride];
    for (int c = column; c < column + columns; ++c) {
      auto state = [&](int i) -> float& { return j.state[static_cast<int64_t>(i) * j.value_dim + c]; };
      float read = 0.0f, out = 0.0f;
      for (int i = 0; i < j.key_dim; ++i) read = std::fma(state(i) * alpha, k[i], read);
      const float delta = beta * (j.v[t * j.v_stride + c] - read);
      for (int i = 0; i < j.key_dim; ++i) {
        state(i) = std::fma(k[i], delta, state(i) * alpha);
        out = std::fma(state(i), q[i], out);
      }
      j.out[t * j.out_stride + c] = out;
    }
  }
}

void softmax_top_k(const float* logits, int experts, int top_k, bool normalise, int32_t* ids, float* weights) {
  std::vector<bool> taken(experts, false);
  for (int j = 0; j < top_k; ++j) {
    int best = -1;
    for (int e = 0; e < experts; ++e)
      if (!taken[e] && (best < 0 || logits[e] > logits[best])) best = e;
    taken[best] = true;
    ids[j] = best;
  }
  float lane[16] = {}, chosen = 0.0f;
  for (int e = 0; e < experts; ++e) lane[e % 16] = lane[e % 16] + exp_ref(logits[e] - logits[ids[0]]);
  const float total = fold(lane);
  for (int j = 0; j < top_k; ++j) {
    weights[j] = exp_ref(logits[ids[j]] - logits[ids[0]]) / total;
    chosen += weights[j];
  }
  if (normalise)
    for (int j = 0; j < top_k; ++j) weights[j] = weights[j] / chosen;
}

uint64_t read(const std::byte* data, size_t bytes, int) {
  uint64_t sum = 0;
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, data + i, sizeof word);
    sum += word;
  }
  return sum;
}

double multiply(bool, int64_t rounds) {
  volatile float sum = 0.0f;
  for (int64_t i = 0; i < rounds; ++i) sum = std::fma(1.0f, 1e-9f, sum);
  return 2.0 * static_cast<double>(rounds);
}

}  // namespace

extern const Ops kRefOps = {.name = "ref",
                            .quantize = quantize,
                            .matmul = matmul,
                            .swiglu = swiglu,
                            .matmul_add = matmul_add,
                            .rms_norm = rms_norm,
                            .head_norm = head_norm,
                            .l2_norm = l2_norm,
                            .gated_norm = gated_norm,
                            .rope = rope,
                            .rope_pairs = ref::rope_pairs,
                            .layer_norm = ref::layer_norm,
                            .gate_output = gate_output,
                            .store_kv = store_kv,
                            .attend = attend,
                            .merge = merge,
                            .pack_rows = ref::pack_rows,
                            .pack_columns = ref::pack_columns,
                            .softmax_row = ref::softmax_row,
                            .index_scores = ref::index_scores,
                            .conv_silu = conv_silu,
                            .delta_rule = delta_rule,
                            .softmax_top_k = softmax_top_k,
                            .sigmoid_top_k = ref::sigmoid_top_k,
                            .sigmoid = sigmoid,
                            .read = read,
                            .multiply = multiply};

}  // namespace kt
