#pragma once

#include <cstdint>
#include <vector>

#include "kernels/thread_pool.h"

namespace kt {

// The part of one sequence that is in a step: `count` tokens from row `row` on, at positions first, first + 1, ...
struct BatchSlice {
  int row = 0, count = 0, first = 0;
  int block = 0;                  // where in the batch's `blocks` its pages begin
  int slot = 0;                   // of its recurrent state
  int save = -1, save_after = 0;  // the slot that keeps the state as it is after so many of the tokens; -1: none
};

// What a step is about: worked out once, the same for every layer. A row is a token. Kept between steps, so that the
// next one allocates nothing.
struct Batch {
  std::vector<BatchSlice> slices;
  std::vector<int32_t> blocks;               // pages of the cache, of each slice in order of position
  std::vector<int32_t> slice_of, positions;  // by row
  std::vector<int64_t> places;               // by row: where in the cache, page * kKvBlock + offset
  std::vector<int32_t> logit_rows;           // whose logits are wanted
  std::vector<double> frequencies;           // radians a position, of each rotary pair
  std::vector<float> cosines, sines;         // (rows, frequencies); by Device::begin

  int rows() const { return static_cast<int>(positions.size()); }
  int half() const { return static_cast<int>(frequencies.size()); }
  const int32_t* blocks_of(const BatchSlice& slice) const { return blocks.data() + slice.block; }
  const float* cosines_of(int row) const { return cosines.data() + static_cast<int64_t>(row) * half(); }
  const float* sines_of(int row) const { return sines.data() + static_cast<int64_t>(row) * half(); }
};

// Cosines and sines of all rows, from angles in float64.
void rotary_angles(Batch& batch, ThreadPool& pool);

}  // namespace kt
