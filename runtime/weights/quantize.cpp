#include "runtime/weights/quantize.h"

#include <algorithm>
#include <vector>

#include "kernels/format/amxint.h"
#include "kernels/format/fp8.h"
#include "runtime/base/error.h"

namespace kt {
namespace {

template <class F>
void dequantize(const PackedMatrix& m, int row, float* out) {
  const std::byte* panel = m.panel(row / kPanel);
  for (int c = 0; c < m.k; ++c) {
    const int tile = c / kTileK;
    const std::byte* scales =
        panel + m.scales_at() + static_cast<size_t>(tile / m.group_tiles) * info(m.format).scale_bytes;
    out[c] = F::scale(scales, row % kPanel) *
             F::weight(panel + static_cast<size_t>(tile) * info(m.format).tile_bytes, row % kPanel, c % kTileK);
  }
}

}  // namespace

void quantize_panel(const PackedMatrix& m, const float* rows, int count, std::byte* panel) {
  switch (m.format) {
    case Format::AMXINT4: return AmxInt4Format::pack(rows, m.k, count, m, panel);
    case Format::AMXINT8: return AmxInt8Format::pack(rows, m.k, count, m, panel);
    case Format::FP8: return Fp8Format::pack(rows, m.k, count, m, panel);
    default: fail(kExitUsage, "weights are not quantised to {}, only to AMXINT4, AMXINT8 and FP8", info(m.format).name);
  }
}

void quantize_expert(const FloatRows& gate, const FloatRows& up, const FloatRows& down, Range columns,
                     const PackedShape& shape, std::byte* out) {
  thread_local std::vector<float> rows;
  rows.resize(static_cast<size_t>(kPanel) * std::max(shape.gate_up.k, shape.down.k));

  for (int p = 0; p < shape.gate_up.panels(); ++p, out += shape.gate_up.panel_bytes()) {
    const int first = columns.begin + p / 2 * kPanel, count = std::clamp(columns.end - first, 0, kPanel);
    (p % 2 ? up : gate).read(first, count, {0, shape.gate_up.k}, rows.data());
    quantize_panel(shape.gate_up, rows.data(), count, out);
  }
  for (int p = 0; p < shape.down.panels(); ++p, out += shape.down.panel_bytes()) {
    const int count = std::min(kPanel, shape.down.n - p * kPanel);
    down.read(p * kPanel, count, columns, rows.data());
    quantize_panel(shape.down, rows.data(), count, out);
  }
}

void dequantize_row(const PackedMatrix& m, int row, float* out) {
  switch (m.format) {
    case Format::AMXINT4: return dequantize<AmxInt4Format>(m, row, out);
    case Format::AMXINT8: return dequantize<AmxInt8Format>(m, row, out);
    default: return dequantize<Fp8Format>(m, row, out);
  }
}

}  // namespace kt
