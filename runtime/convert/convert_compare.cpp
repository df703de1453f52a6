// How far converted experts are from their source, in weights and in one output.

#include <algorithm>
#include <cmath>
#include <random>

#include "runtime/base/error.h"
#include "runtime/base/first_error.h"
#include "runtime/convert/convert.h"
#include "runtime/weights/expert_tensors.h"
#include "runtime/weights/quantize.h"

namespace kt {
namespace {

struct Squares {
  double error = 0.0, source = 0.0;
  void add(double found, double expected) {
    error += (found - expected) * (found - expected);
    source += expected * expected;
  }
  double relative() const { return source > 0.0 ? std::sqrt(error / source) : std::sqrt(error); }
};

struct SourceExpert {
  FloatRows gate, up, down;
  SourceExpert(const ConversionInput& input, const ExpertRows& rows)
      : gate(input.checkpoint, input.config.quant, rows.gate),
        up(input.checkpoint, input.config.quant, rows.up),
        down(input.checkpoint, input.config.quant, rows.down) {}
};

// The largest error of a weight in units of its group's largest weight. The smallest int4 scale is 0.6875 / 8 of that
// and its shorter side has seven steps (amxint.h); scales are rounded to bf16, by at most 2^-8: what is clipped is off
// by 0.4 + 2^-8 at most, everything else by half a step.
double allowed(Format format) {
  constexpr double kRounding = 1.0 / 256;
  return format == Format::AMXINT4 ? 1 - 0.6875 * 7 / 8 + kRounding : 0.5 / 127 * (1 + kRounding) + kRounding;
}

// One matrix: rows of the source against rows of the packed matrix. Returns a row that is too far off, or -1.
template <class PackedRow>
int compare_rows(const FloatRows& source, const PackedMatrix& m, int rows, const PackedRow& packed_row,
                 Squares& squares) {
  std::vector<float> expected(static_cast<size_t>(m.k)), found(expected.size());
  const int group = m.group_tiles * kTileK;
  for (int r = 0; r < rows; ++r) {
    source.read(r, 1, {0, m.k}, expected.data());
    dequantize_row(m, packed_row(r), found.data());
    for (int from = 0; from < m.k; from += group) {
      double largest = 0.0, worst = 0.0;
      for (int c = from; c < std::min(m.k, from + group); ++c) {
        largest = std::max(largest, std::fabs(static_cast<double>(expected[c])));
        worst = std::max(worst, std::fabs(static_cast<double>(found[c]) - expected[c]));
        squares.add(found[c], expected[c]);
      }
      if (!(worst <= largest * allowed(m.format))) return r;
    }
  }
  return -1;
}

FfnWeights view(const PackedShape& shape, const std::byte* expert) {
  FfnWeights w{.gate_up = shape.gate_up, .down = shape.down, .columns = shape.inter};
  w.gate_up.data = expert;
  w.down.data = expert + shape.gate_up.bytes();
  return w;
}

Squares compare_expert(const SourceExpert& source, const FfnWeights& w, int inter, const std::string& where) {
  Squares squares;
  const auto check = [&](const char* matrix, int row) {
    if (row >= 0)
      fail(kExitModel, "{}: {}: row {} is not what {} makes of the source; was it converted from this checkpoint?",
           where, matrix, row, info(w.down.format).name);
  };
  const auto pair_row = [](int r, int up) { return (r / kPanel * 2 + up) * kPanel + r % kPanel; };
  check("gate", compare_rows(
                    source.gate, w.gate_up, inter, [&](int r) { return pair_row(r, 0); }, squares));
  check("up", compare_rows(
                  source.up, w.gate_up, inter, [&](int r) { return pair_row(r, 1); }, squares));
  check("down", compare_rows(
                    source.down, w.down, w.down.n, [](int r) { return r; }, squares));
  return squares;
}

std::vector<double> product(const FloatRows& rows, int n, const std::vector<double>& x) {
  std::vector<float> row(x.size());
  std::vector<double> y(static_cast<size_t>(n));
  for (int r = 0; r < n; ++r) {
    rows.read(r, 1, {0, static_cast<int>(x.size())}, row.data());
    for (size_t c = 0; c < x.size(); ++c) y[r] += static_cast<double>(row[c]) * x[c];
  }
  return y;
}

// down(silu(gate x) * up x) in float64 from the source, and by the kernels from the packed weights.
double compare_output(const SourceExpert& source, const FfnWeights& w, int hidden, int inter, Device& device) {
  std::mt19937 random(1);
  std::vector<bf16> row(static_cast<size_t>(round_up(hidden, kTileK)));
  std::vector<double> x(static_cast<size_t>(hidden));
  for (int i = 0; i < hidden; ++i) {
    constexpr float kUniform = 3.4641016f / 4294967296.0f;  // to variance 1
    row[i] = to_bf16((static_cast<float>(random()) - 2147483648.0f) * kUniform);
    x[i] = to_float(row[i]);
  }
  std::vector<double> h = product(source.gate, inter, x);
  const std::vector<double> up = product(source.up, inter, x);
  for (int i = 0; i < inter; ++i) h[i] = h[i] / (1.0 + std::exp(-h[i])) * up[i];
  const std::vector<double> expected = product(source.down, hidden, h);

  std::vector<double> found(static_cast<size_t>(round_up(hidden, kPanel)));
  const int32_t id = 0;
  const float weight = 1.0f;
  device.reserve(
      {.experts = {.experts = 1, .top_k = 1, .hidden = hidden, .columns = inter, .rows = 1, .format = w.down.format}});
  device.experts({.experts = &w,
                  .slice = slice_width(inter),
                  .x = {row.data(), static_cast<int64_t>(row.size()), 1, hidden},
                  .routing = {.ids = {&id, 1}, .weights = {&weight, 1}, .rows = 1, .top_k = 1},
                  .y = {found.data(), static_cast<int64_t>(found.size()), 1, hidden}});
  Squares squares;
  for (int i = 0; i < hidden; ++i) squares.add(found[i], expected[i]);
  return squares.relative();
}

}  // namespace

LayerDeviation compare_layer(const ConversionInput& input, const std::filesystem::path& folder,
                             const PackedManifest& manifest, int layer, Device& device) {
  const PackedLayer file(folder, manifest, layer);
  const PackedShape shape = manifest.shape();
  const auto source_of = [&](int e) { return expert_rows(input.checkpoint, input.arch, input.config, layer, e); };
  std::vector<Squares> squares(static_cast<size_t>(manifest.experts));
  FirstError error;
  device.host_threads().run(manifest.experts, [&](int64_t i) {
    error.guard([&] {
      const int e = static_cast<int>(i);
      const SourceExpert source(input, source_of(e));
      squares[static_cast<size_t>(e)] =
          compare_expert(source, view(shape, file.expert(e)), manifest.inter,
                         fmt::format("{}: layer {}, expert {}", layer_file(folder, layer).string(), layer, e));
      for (const FloatRows* done : {&source.gate, &source.up, &source.down}) done->forget();
    });
  });
  error.rethrow();
  Squares all;
  for (const Squares& s : squares) all.error += s.error, all.source += s.source;
  const SourceExpert first(input, source_of(0));
  return {.weights = all.relative(),
          .output = compare_output(first, view(shape, file.expert(0)), manifest.hidden, manifest.inter, device)};
}

}  // namespace kt
