#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/latent_chains.h"

// What the files of latent attention share.

namespace kt::SIMT_TABLE {

// One bf16 matrix a head, all of one shape, `stride` bytes from one to the next.
struct HeadMatrices {
  PackedMatrix first;
  int64_t stride = 0;

  __device__ const bf16* tile(int head, int panel, int t) const {  // of 32 inputs
    return reinterpret_cast<const bf16*>(first.data + head * stride) +
           (static_cast<int64_t>(panel) * first.k_tiles() + t) * kPanel * kTileK;
  }
};
// Throws std::logic_error if they are not so.
HeadMatrices head_matrices(const PackedMatrix* matrices, int heads);

// Whether the indexer picks the keys of a row; up to top_k it would take them all.
__device__ __host__ constexpr bool picks(const LatentHeads& heads, int position) {
  return heads.top_k && position >= heads.top_k;
}

// The place of a row's key in a sequence's pages.
struct SequencePages {
  Pages pages;
  const int32_t* blocks;
  int columns;  // cached_dim

  __device__ const bf16* row(int position) const {
    return pages.page(blocks[position / kKvBlock]) + static_cast<int64_t>(position % kKvBlock) * columns;
  }
};
__device__ inline SequencePages pages_of(const LatentHeads& m, const Pages& pages, const DeviceBatch& batch, int row) {
  return {pages, batch.blocks + batch.slices[batch.slice_of[row]].block, m.cached_dim()};
}

// Element i of a head whose neighbours are rotated in pairs, the first 2 * half of them.
__device__ inline float rotated_pair(const float* x, int i, const float* cosines, const float* sines, int half) {
  const int pair = i / 2;
  if (pair >= half) return x[i];
  const float a = x[2 * pair], b = x[2 * pair + 1];
  return i % 2 ? fmaf(b, cosines[pair], a * sines[pair]) : fmaf(a, cosines[pair], -(b * sines[pair]));
}
// The same of one whose elements i and i + half make a pair; at(i) is the element.
template <class At>
__device__ float rotated_half(const At& at, int i, const float* cosines, const float* sines, int half) {
  if (i >= 2 * half) return at(i);
  const int pair = i % half;
  const float a = at(pair), b = at(pair + half);
  return i < half ? fmaf(a, cosines[pair], -(b * sines[pair])) : fmaf(b, cosines[pair], a * sines[pair]);
}

}  // namespace kt::SIMT_TABLE
