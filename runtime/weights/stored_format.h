#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/weight.h"
#include "runtime/arch/config.h"

// How a checkpoint's formats lie in its files and in memory.

namespace kt {

// Tiles that share scales in a matrix whose columns are summed in slices (0: in one): no group of them crosses a slice
// or a block of the checkpoint's scales, wherever those end.
int group_tiles(Format format, const QuantSpec& quant, int slice);

// FP8's scales of a matrix, or of each matrix of a stack: their shape, and which row of them a row has.
std::vector<int64_t> scale_shape(const std::vector<int64_t>& shape, const QuantSpec& quant);
int64_t scale_row(const std::vector<int64_t>& shape, const QuantSpec& quant, int64_t row);

// The format in memory of what a checkpoint stores so.
Format stored_format(Stored stored);

// Bytes of a (rows, columns) matrix in a checkpoint's files, with its scales: float32 ones for FP8 blocks of 128 x 128.
size_t stored_bytes(Format format, int64_t rows, int64_t columns);

}  // namespace kt
