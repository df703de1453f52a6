#include "runtime/weights/stored_format.h"

#include <numeric>

#include "runtime/base/error.h"

namespace kt {

int group_tiles(Format format, const QuantSpec& quant, int slice) {
  int tiles = info(format).max_group_tiles;
  if (!tiles) return 0;
  if (format == Format::FP8) tiles = std::gcd(tiles, quant.block_columns / kTileK);
  return slice ? std::gcd(tiles, slice / kTileK) : tiles;
}

std::vector<int64_t> scale_shape(const std::vector<int64_t>& shape, const QuantSpec& quant) {
  std::vector<int64_t> scales = shape;
  int64_t *rows = &scales[scales.size() - 2], *columns = &scales.back();
  *rows = ceil_div(*rows, quant.block_rows);
  *columns = ceil_div(*columns, quant.block_columns);
  return scales;
}

int64_t scale_row(const std::vector<int64_t>& shape, const QuantSpec& quant, int64_t row) {
  const int64_t rows = shape[shape.size() - 2];
  return row / rows * ceil_div(rows, quant.block_rows) + row % rows / quant.block_rows;
}

Format stored_format(Stored stored) {
  switch (stored) {
    case Stored::fp8_block: return Format::FP8;
    case Stored::int4_group: return Format::RAWINT4;
    case Stored::bf16: break;
  }
  return Format::BF16;
}

size_t stored_bytes(Format format, int64_t rows, int64_t columns) {
  const int64_t elements = rows * columns;
  switch (format) {
    case Format::BF16: return static_cast<size_t>(2 * elements);
    case Format::FP8: return static_cast<size_t>(elements + 4 * ceil_div(rows, 128) * ceil_div(columns, 128));
    case Format::RAWINT4: return static_cast<size_t>(elements / 2 + 2 * rows * ceil_div(columns, kTileK));
    default: fail(kExitModel, "{} is not a checkpoint's format", info(format).name);
  }
}

}  // namespace kt
