#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/numeric.h"

namespace kt {

// One weight layout serves every instruction set, AMX tiles included. A matrix W (n, k), used as y = x W^T, is cut into
// panels of 16 outputs. A panel is its tiles of 32 inputs, one after the other, then its scales, padded to 64 bytes.
// n and k are padded with zeros. Panels lie one after the other, so a run of panels is a matrix of its own.
inline constexpr int kPanel = 16;
inline constexpr int kTileK = 32;

// The order of one sum. A *chain* over a range of k is, tile by tile from zero: the products of the even inputs added
// up by fused multiply-adds in ascending order, those of the odd inputs likewise, and even + odd added to the result.
// This is what TDPBF16PS does (denormals are zero, everywhere in the kernels), so tiles, vectors and plain loops agree
// to the bit, whatever the number of rows. Formats with scales sum group by group of tiles: each group is a chain from
// zero, and result = fma(scale, chain, result). Formats with 8-bit activations have exact integer sums inside a group.

// Named as kt-method names them. One header each in kernels/format/ says how it is stored, what it computes and how
// large the error is.
enum class Format : uint8_t { BF16, FP8, RAWINT4, AMXINT4, AMXINT8 };

struct FormatInfo {
  std::string_view name;
  int tile_bytes;         // of 16 outputs x 32 inputs
  int scale_bytes;        // of 16 outputs and one group
  int max_group_tiles;    // tiles that share scales, at most; 0: no scales
  bool int8_activations;  // inputs are quantised too
};
// Internal to each file: what is compiled for one instruction set must not define symbols for the others.
static constexpr FormatInfo kFormats[] = {
    {"BF16", 1024, 0, 0, false},   {"FP8", 512, 4, 4, false},     {"RAWINT4", 256, 32, 1, false},
    {"AMXINT4", 256, 32, 4, true}, {"AMXINT8", 512, 32, 4, true},
};
static constexpr const FormatInfo& info(Format f) { return kFormats[static_cast<int>(f)]; }

// A view of a packed matrix; owns nothing.
struct PackedMatrix {
  Format format = Format::BF16;
  int n = 0, k = 0;                 // true sizes
  int group_tiles = 0;              // tiles that share scales; divides the tiles of a slice
  const std::byte* data = nullptr;  // 64-byte aligned

  constexpr int panels() const { return static_cast<int>(ceil_div(n, kPanel)); }
  constexpr int k_tiles() const { return static_cast<int>(ceil_div(k, kTileK)); }
  constexpr int groups() const { return group_tiles ? static_cast<int>(ceil_div(k_tiles(), group_tiles)) : 0; }
  constexpr size_t scales_at() const { return static_cast<size_t>(k_tiles()) * info(format).tile_bytes; }  // in a panel
  constexpr size_t panel_bytes() const {
    return static_cast<size_t>(round_up(static_cast<int64_t>(scales_at()) + groups() * info(format).scale_bytes, 64));
  }
  constexpr size_t bytes() const { return panels() * panel_bytes(); }
  constexpr const std::byte* panel(int i) const { return data + i * panel_bytes(); }
};

}  // namespace kt
