// Gated delta net on the emulated device, bit for bit.

#include <algorithm>
#include <cmath>

#include "tests/kernels/cuda_pair.h"

namespace kt {
namespace {

struct Tokens {
  int count, save_after = -1;  // of a sequence; -1: nothing is saved
};

// Sequence i has slot 2 i, and saves in the one behind it.
Batch batch_of(const std::vector<Tokens>& sequences) {
  Batch b;
  for (const Tokens& t : sequences) {
    const int i = static_cast<int>(b.slices.size());
    b.slices.push_back({.row = b.rows(),
                        .count = t.count,
                        .slot = 2 * i,
                        .save = t.save_after < 0 ? -1 : 2 * i + 1,
                        .save_after = std::max(t.save_after, 0)});
    for (int k = 0; k < t.count; ++k) b.slice_of.push_back(i), b.positions.push_back(k);
  }
  return b;
}

std::vector<std::vector<Tokens>> batches() {
  return {{}, {{1}}, {{1}, {1}, {1, 1}, {1, 0}}, {{40}, {2, 1}, {1}, {3, 3}}, {{19, 7}, {33, 32}, {17, 16}, {16, 0}}};
}

struct Layer {
  DeltaHeads d;
  Batch batch;
  int rows = batch.rows(), values = d.value_heads * d.value_dim, columns = d.channels() + values;
  int64_t ld = columns + 16, gates_ld = round_up(2 * d.value_heads, 16);
  size_t history = static_cast<size_t>(d.taps - 1) * d.channels(),
         state = static_cast<size_t>(d.value_heads) * d.key_dim * d.value_dim;
  int64_t stride = static_cast<int64_t>(history + state);
  Both<float> fused, gates, convolved, mixed, slots;
  Both<bf16> out;

  Layer(const Pair& pair, const DeltaHeads& heads, const std::vector<Tokens>& sequences)
      : d(heads),
        batch(batch_of(sequences)),
        fused(pair, normal_floats(static_cast<size_t>(rows * ld), 1)),
        gates(pair, normal_floats(static_cast<size_t>(rows * gates_ld), 2, 6.0f)),
        convolved(pair, normal_floats(static_cast<size_t>(rows) * d.channels(), 3, 0.3f)),
        mixed(pair, normal_floats(static_cast<size_t>(rows) * values, 4)),
        slots(pair, normal_floats(batch.slices.size() * 2 * (history + state), 5)),
        out(pair, static_cast<size_t>(rows * round_up(values, 32))) {}

  Mat<float> cpu_fused() const { return fused.cpu_mat(rows, columns, ld); }
  Mat<float> gpu_fused() const { return fused.gpu_mat(rows, columns, ld); }
  Mat<float> cpu_gates() const { return gates.cpu_mat(rows, 2 * d.value_heads, gates_ld); }
  Mat<float> gpu_gates() const { return gates.gpu_mat(rows, 2 * d.value_heads, gates_ld); }
  Mat<float> cpu_convolved() const { return convolved.cpu_mat(rows, d.channels(), d.channels()); }
  Mat<float> gpu_convolved() const { return convolved.gpu_mat(rows, d.channels(), d.channels()); }
  Mat<float> cpu_mixed() const { return mixed.cpu_mat(rows, values, values); }
  Mat<float> gpu_mixed() const { return mixed.gpu_mat(rows, values, values); }
  Slots cpu_slots(size_t from) const { return {slots.cpu() + from, stride}; }
  Slots gpu_slots(size_t from) const { return {slots.gpu() + from, stride}; }
};

void on_all_shapes(const std::vector<DeltaHeads>& shapes, const std::function<void(Pair& pair, Layer& l)>& run) {
  Pair pair;
  pair.reserve({.rows = 128, .context = 128});
  int round = 0;
  Pair::in_every_schedule([&] {
    simt::emulation.copies = static_cast<simt::Emulation::Copies>(round++ % 3);
    for (const DeltaHeads& d : shapes)
      for (const std::vector<Tokens>& sequences : batches()) {
        Layer l(pair, d, sequences);
        SCOPED_TRACE(std::to_string(d.value_heads) + " heads of " + std::to_string(d.key_dim) + " x " +
                     std::to_string(d.value_dim) + ", " + std::to_string(d.taps) + " taps, " + std::to_string(l.rows) +
                     " rows of " + std::to_string(sequences.size()));
        pair.begin(l.batch);
        run(pair, l);
      }
  });
}

const std::vector<DeltaHeads> kShapes = {
    {.key_heads = 1, .value_heads = 1, .key_dim = 16, .value_dim = 32, .taps = 4},
    {.key_heads = 2, .value_heads = 6, .key_dim = 48, .value_dim = 80, .taps = 3},
    {.key_heads = 1, .value_heads = 2, .key_dim = 128, .value_dim = 64, .taps = 4},
    {.key_heads = 3, .value_heads = 3, .key_dim = 32, .value_dim = 96, .taps = 1},
    {.key_heads = 1, .value_heads = 1, .key_dim = 32, .value_dim = 32, .taps = 21}};

TEST(CudaDelta, ConvolutionsKeepAndSaveTheirLastInputs) {
  on_all_shapes(kShapes, [](Pair& pair, Layer& l) {
    const Both<float> w(pair, normal_floats(static_cast<size_t>(l.d.taps) * l.d.channels(), 6));
    pair.cpu->conv(l.d, l.cpu_fused(), w.cpu(), l.cpu_slots(0), l.cpu_convolved());
    pair.gpu->conv(l.d, l.gpu_fused(), w.gpu(), l.gpu_slots(0), l.gpu_convolved());
    l.convolved.expect_same("convolved");
    l.slots.expect_same("histories");
  });
}

TEST(CudaDelta, InputsAreNormedAndGatesDecay) {
  on_all_shapes(kShapes, [](Pair& pair, Layer& l) {
    const auto heads = static_cast<size_t>(l.d.value_heads);
    std::vector<float> slow = normal_floats(heads, 7);
    for (float& v : slow) v = -std::abs(v);
    std::vector<float> bias = normal_floats(heads, 8, 10.0f);
    bias.back() = 1000.0f, slow.back() = -0.001f;  // beyond what float64's exp has
    const Both<float> decay(pair, slow), dt_bias(pair, bias);
    pair.cpu->delta_inputs(l.d, l.cpu_convolved(), l.cpu_gates(), decay.cpu(), dt_bias.cpu());
    pair.gpu->delta_inputs(l.d, l.gpu_convolved(), l.gpu_gates(), decay.gpu(), dt_bias.gpu());
    l.convolved.expect_same("queries and keys");
    l.gates.expect_same("gates");
  });
}

TEST(CudaDelta, StatesFollowTheRuleAndAreSaved) {
  std::vector<DeltaHeads> shapes = kShapes;
  shapes.push_back({.key_heads = 1, .value_heads = 1, .key_dim = 1024, .value_dim = 32, .taps = 1});  // lies apart
  on_all_shapes(shapes, [](Pair& pair, Layer& l) {
    std::vector<float> gates = l.gates.expected(), qk = l.convolved.expected();
    for (float& v : gates) v = 1.0f / (1.0f + std::abs(v));
    for (float& v : qk) v = v / std::sqrt(static_cast<float>(l.d.key_dim));
    l.gates.set(gates);
    l.convolved.set(qk);
    pair.cpu->delta_rule(l.d, l.cpu_convolved(), l.cpu_gates(), l.cpu_slots(l.history), l.cpu_mixed());
    pair.gpu->delta_rule(l.d, l.gpu_convolved(), l.gpu_gates(), l.gpu_slots(l.history), l.gpu_mixed());
    l.mixed.expect_same("out");
    l.slots.expect_same("states");
  });
}

TEST(CudaDelta, OutputsAreNormedAndGated) {
  on_all_shapes(kShapes, [](Pair& pair, Layer& l) {
    const int64_t ld = round_up(l.values, 32);
    const Both<float> w(pair, normal_floats(static_cast<size_t>(l.d.value_dim), 9));
    pair.cpu->gated_norm(l.d, l.cpu_mixed(), l.cpu_fused(), w.cpu(), 1e-6f, l.out.cpu_mat(l.rows, l.values, ld));
    pair.gpu->gated_norm(l.d, l.gpu_mixed(), l.gpu_fused(), w.gpu(), 1e-6f, l.out.gpu_mat(l.rows, l.values, ld));
    l.out.expect_same("out");
  });
}

}  // namespace
}  // namespace kt
