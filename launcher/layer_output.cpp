#include "launcher/layer_output.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/format/amxint.h"
#include "kernels/format/bf16.h"
#include "runtime/base/error.h"
#include "runtime/weights/shares.h"

namespace kt {
namespace {

// Packs `count` <= 16 rows of k values as a panel.
void pack(const PackedMatrix& m, const bf16* rows, int count, std::byte* panel) {
  if (m.format == Format::BF16) return Bf16Format::pack(rows, m.k, count, m.k, panel);
  std::vector<float> wide(static_cast<size_t>(kPanel) * m.k);
  std::transform(rows, rows + static_cast<size_t>(count) * m.k, wide.begin(), [](bf16 w) { return to_float(w); });
  m.format == Format::AMXINT4 ? AmxInt4Format::pack(wide.data(), m.k, count, m, panel)
                              : AmxInt8Format::pack(wide.data(), m.k, count, m, panel);
}

}  // namespace

void write_layer_output(Device& device, const FfnWeights& shape, const std::string& in, const std::string& out) {
  const Format format = shape.gate_up.format;
  if (format != Format::BF16 && !info(format).int8_activations)
    fail(kExitUsage, "layer {}: expected kt-method BF16, AMXINT4 or AMXINT8, which can be made of bf16 weights, not {}",
         in, info(format).name);
  std::ifstream file(in, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  const size_t hidden = shape.gate_up.k, inter = shape.columns, matrix = hidden * inter;
  std::vector<bf16> values(bytes.size() / sizeof(bf16));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(bf16));
  if (values.size() < 3 * matrix + hidden || (values.size() - 3 * matrix) % hidden)
    fail(kExitUsage, "layer {}: expected three matrices of {} x {} and whole rows of {} in bf16, found {} bytes", in,
         inter, hidden, hidden, bytes.size());
  const int rows = static_cast<int>((values.size() - 3 * matrix) / hidden);

  FfnWeights w = shape;
  const Buffer memory = device.take_host(w.gate_up.bytes() + w.down.bytes());
  std::byte* at = memory.bytes();
  w.gate_up.data = at;
  for (int p = 0; p < w.gate_up.panels(); ++p, at += w.gate_up.panel_bytes()) {
    const int first = std::min(p / 2 * kPanel, w.columns), count = std::min(kPanel, w.columns - first);
    pack(w.gate_up, &values[p % 2 * matrix + first * hidden], count, at);
  }
  w.down.data = at;
  for (int p = 0; p < w.down.panels(); ++p, at += w.down.panel_bytes())
    pack(w.down, &values[2 * matrix + p * kPanel * inter], std::min(kPanel, w.down.n - p * kPanel), at);

  device.reserve(
      {.experts = {
           .experts = 1, .top_k = 1, .hidden = w.gate_up.k, .columns = w.columns, .rows = rows, .format = format}});
  const std::vector<int32_t> ids(static_cast<size_t>(rows), 0);
  const std::vector<float> weights(static_cast<size_t>(rows), 1.0f);
  std::vector<double> sum(static_cast<size_t>(rows) * hidden, 0.0);
  device.experts({.experts = &w,
                  .slice = slice_width(w.columns),
                  .x = {&values[3 * matrix], w.gate_up.k, rows, w.gate_up.k},
                  .routing = {.ids = ids, .weights = weights, .rows = rows, .top_k = 1},
                  .y = {sum.data(), w.gate_up.k, rows, w.gate_up.k}});
  const std::vector<float> result(sum.begin(), sum.end());
  std::ofstream to(out, std::ios::binary);
  to.write(reinterpret_cast<const char*>(result.data()), static_cast<std::streamsize>(result.size() * sizeof(float)));
  if (!to.flush()) fail(kExitUsage, "layer-output {}: cannot be written", out);
}

}  // namespace kt
