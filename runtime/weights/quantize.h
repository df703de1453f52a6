#pragma once

#include "runtime/checkpoint/packed.h"
#include "runtime/weights/expert_tensors.h"

namespace kt {

// Quantises columns of one expert from a checkpoint's values into AMXINT4 or AMXINT8, gate_up and then down, as
// packed_shape() of that many columns lays them out. Scales are per group of a slice, so any rank's columns have the
// same bits as in the whole. `inter` slices as slice_width() says.
void quantize_expert(const FloatRows& gate, const FloatRows& up, const FloatRows& down, Range columns,
                     const PackedShape& shape, std::byte* out);

// One panel of a matrix of any format that weights are quantised to: `count` rows of k values, one after the other.
void quantize_panel(const PackedMatrix& m, const float* rows, int count, std::byte* panel);

// One row of a packed matrix as float32, k values.
void dequantize_row(const PackedMatrix& m, int row, float* out);

}  // namespace kt
