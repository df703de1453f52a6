#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/weight.h"

namespace kt {

// The seam between the model and instruction sets: one table of plain functions per instruction set. Every function is
// serial and works on the part of a job that its range arguments name; threads are the caller's business (see
// context.h). kernels/cpu/ref.cpp is the specification in plain loops; every other table gives the same bits.

// An input quantised to int8, group by group (see kernels/format/amxint.h).
struct QuantGroup {
  float scale;  // activation = scale * q
  int32_t sum;  // of q, to take the weights' offset out
};

// A batch of bf16 rows. Row i starts at data + row(i) * stride; columns up to the next multiple of 32 are readable and,
// beyond the matrix's k, zero.
struct Rows {
  const bf16* data = nullptr;
  int64_t stride = 0;
  int count = 0;
  const int32_t* index = nullptr;  // row(i) = index ? index[i] : i

  // The same rows quantised, for formats with 8-bit activations: row r at q + r * q_stride, its groups at
  // groups + r * group_stride.
  const int8_t* q = nullptr;
  int64_t q_stride = 0;
  const QuantGroup* groups = nullptr;
  int64_t group_stride = 0;

  int64_t at(int i) const { return index ? index[i] : i; }
  const bf16* row(int i) const { return data + at(i) * stride; }
};

// Tokens of one page of the KV cache.
inline constexpr int kKvBlock = 64;
// Keys that are handled as one unit of softmax: scores, maximum and sum are taken over the keys
// [span * kKvSpan, (span + 1) * kKvSpan) up to the query's own position; spans are then merged in ascending order.
inline constexpr int kKvSpan = 512;

// One page of one key-value head: keys transposed, so that a vector holds one component of 16 keys.
//   keys   (head_dim, kKvBlock) bf16
//   values (kKvBlock, head_dim) bf16
inline constexpr int64_t kv_page_elements(int head_dim) { return 2ll * head_dim * kKvBlock; }

// Queries of one sequence that share a key-value head: query i is head i % group of token i / group.
struct AttentionJob {
  const float* q = nullptr;  // query of (token t, head g): q + t * q_stride + g * head_dim
  int64_t q_stride = 0;
  int first = 0;     // position of token 0
  int group = 1;     // query heads per key-value head
  int head_dim = 0;  // multiple of 16
  float scale = 1.0f;
  const bf16* pages = nullptr;  // page b of this head at pages + b * page_stride
  int64_t page_stride = 0;
  const int32_t* blocks = nullptr;  // page numbers in order of position
};

// Softmax over a set of keys, unfinished: maximum, sum of exp(score - maximum), and values weighted alike.
struct SoftmaxState {
  float max, sum;
};

// A recurrence over the tokens of one value head, columns [column, column + columns) of its state.
struct DeltaJob {
  const float* q = nullptr;  // (tokens, ...) at q + t * qk_stride, key_dim values, normalised and scaled
  const float* k = nullptr;
  int64_t qk_stride = 0;
  const float* v = nullptr;  // at v + t * v_stride + column
  int64_t v_stride = 0;
  const float* alpha = nullptr;  // at alpha + t * gate_stride: decay in (0, 1]
  const float* beta = nullptr;
  int64_t gate_stride = 0;
  int tokens = 0, key_dim = 0, value_dim = 0;
  float* state = nullptr;  // (key_dim, value_dim) f32, updated
  float* out = nullptr;    // at out + t * out_stride + column
  int64_t out_stride = 0;
};

// Routing by sigmoid scores (DeepSeek-V3, "Auxiliary-Loss-Free Load Balancing"): the bias picks experts but does not
// weigh them. Experts lie in `groups` equal runs; only the `kept_groups` best are picked from.
struct SigmoidRouting {
  const float* bias = nullptr;  // (experts)
  int experts = 0, top_k = 0;
  int groups = 1, kept_groups = 1;  // groups: a divisor of experts, at most kMaxExpertGroups
  bool normalise = false;           // weights are divided by their sum
  float scale = 1.0f;               // and multiplied by this
};
inline constexpr int kMaxExpertGroups = 64;

struct Ops {
  std::string_view name;  // "ref", "avx2", "avx512", "avx512-vnni", "avx512-bf16", "amx", "amx-emulated"

  // Quantises k_tiles * 32 values of a row in groups of group_tiles tiles: q = round(x * 127 / max|x|).
  void (*quantize)(const bf16* x, int k_tiles, int group_tiles, int8_t* q, QuantGroup* groups);

  // out[i][16p..] = chain of x_i and W over all k, for panels p in [begin, end); out is (x.count, ldo) f32 and has room
  // for whole panels.
  void (*matmul)(const Rows& x, const PackedMatrix& w, int begin, int end, float* out, int64_t ldo);

  // gate_up has the gate's panel p at 2p and the up's at 2p + 1. h[i][16p..] = bf16(silu(gate) * up), for p in [begin,
  // end).
  void (*swiglu)(const Rows& x, const PackedMatrix& gate_up, int begin, int end, bf16* h, int64_t ldh);

  // Row-parallel product, cut into slices of `slice` inputs (a multiple of 32; the last may be shorter):
  // out[to(i)][16p..] += sum over slices of to_grid(scale_i * chain over the slice), for p in [begin, end).
  // to(i) = out_index ? out_index[i] : i; scale null: 1. out is float64 with room for whole panels.
  void (*matmul_add)(const Rows& x, const PackedMatrix& w, int slice, int begin, int end, const float* scale,
                     double* out, int64_t ldo, const int32_t* out_index);

  // out = bf16(w * x / sqrt(mean(x^2) + eps)), n values, out padded with zeros to a multiple of 32.
  void (*rms_norm)(const float* x, const float* w, float eps, int n, bf16* out);
  // The same in place in float32. n is a multiple of 16.
  void (*head_norm)(float* x, const float* w, float eps, int n);
  // x = x * scale / sqrt(sum(x^2) + eps) in place. n is a multiple of 16.
  void (*l2_norm)(float* x, float eps, float scale, int n);
  // out = bf16(w * x / sqrt(mean(x^2) + eps) * silu(z)). n is a multiple of 16.
  void (*gated_norm)(const float* x, const float* w, const float* z, float eps, int n, bf16* out);
  // Rotates the pairs (x_i, x_{i+half}) by the angles whose cosines and sines are given; half values each.
  void (*rope)(float* x, const float* cosines, const float* sines, int half);
  // The same for the pairs (x_{2i}, x_{2i+1}), i < half.
  void (*rope_pairs)(float* x, const float* cosines, const float* sines, int half);
  // x = (x - mean) / sqrt(mean((x - mean)^2) + eps) * w + b in place. n is a multiple of 16.
  void (*layer_norm)(float* x, const float* w, const float* b, float eps, int n);
  // out = bf16(x * sigmoid(gate)), or bf16(x) when gate is null. n is a multiple of 16.
  void (*gate_output)(const float* x, const float* gate, int n, bf16* out);

  // Keys and values of one token into place `offset` of a page.
  void (*store_kv)(const float* key, const float* value, int head_dim, int offset, bf16* page);
  // States and values (query, head_dim) of queries [begin, end) over one span; queries whose position lies before the
  // span are left as (max = -inf, sum = 0, values 0).
  void (*attend)(const AttentionJob& job, int begin, int end, int span, SoftmaxState* states, float* values);
  // Adds state b to state a, values of n elements.
  void (*merge)(SoftmaxState& a, float* a_values, const SoftmaxState& b, const float* b_values, int n);

  // Latent attention (multi-head latent attention, absorbed form) is two matrix products with cached rows as weights;
  // these make a bf16 PackedMatrix of up to kKvSpan rows, wherever they lie. columns is a multiple of 32.
  // W = the rows: n = count, k = columns.
  void (*pack_rows)(const bf16* const* rows, int count, int columns, bf16* packed);
  // W = the rows transposed: n = columns, k = count.
  void (*pack_columns)(const bf16* const* rows, int count, int columns, bf16* packed);
  // p[i] = bf16(exp(scale scores[i] - max)) for i < count, zeros up to round_up(padded, 32); the sum is that of the
  // rounded p. count may be 0. scores are readable up to the next multiple of 16.
  SoftmaxState (*softmax_row)(const float* scores, float scale, int count, int padded, bf16* p);
  // out[i] = sum over heads h in ascending order of weights[h] * max(0, dots[h * ld + i]), i < n, a multiple of 16.
  void (*index_scores)(const float* dots, int64_t ld, const float* weights, int heads, int n, float* out);

  // Causal depthwise convolution and silu on channels [begin, end), multiples of 16. x (tokens, x_stride);
  // history (taps - 1, channels): the inputs before the first token, updated; w (taps, channels) with the current
  // token's tap last; out (tokens, out_stride).
  void (*conv_silu)(const float* x, int64_t x_stride, float* history, const float* w, int taps, int channels,
                    int tokens, int begin, int end, float* out, int64_t out_stride);
  // Gated delta rule: S *= alpha; d = beta (v - S^T k); S += k d^T; out = S^T q, token by token.
  void (*delta_rule)(const DeltaJob& job, int column, int columns);

  // The top_k largest of softmax(logits), ties to the lower index, in descending order; normalised to sum 1 if asked.
  void (*softmax_top_k)(const float* logits, int experts, int top_k, bool normalise, int32_t* ids, float* weights);
  // The top_k largest of sigmoid(logits) + bias among the best groups, a group's score being the sum of its two
  // largest; ties to the lower index, in descending order. weights: from the sigmoids alone. logits are replaced by
  // them.
  void (*sigmoid_top_k)(float* logits, const SigmoidRouting& routing, int32_t* ids, float* weights);
  // out[i] = sigmoid(x[i]), any n.
  void (*sigmoid)(const float* x, int n, float* out);

  // For benchmarks. Reads all of a block of memory as `streams` (1, 4 or 8) parts in step; the sum is of no interest.
  uint64_t (*read)(const std::byte* data, size_t bytes, int streams);
  // Multiplies from registers alone with the widest instruction of the table, bf16 (or float32) or int8, and returns
  // the number of operations, a multiply-add counting as two.
  double (*multiply)(bool int8, int64_t rounds);
};

// Tables that this machine can run, slowest first. "amx-emulated" is AMX's code on software tiles, for tests.
std::span<const Ops* const> available_ops();
// The best of them, or the one that KTMPI_ISA names; throws std::runtime_error naming the choices if it is not there.
const Ops& choose_ops();

}  // namespace kt
