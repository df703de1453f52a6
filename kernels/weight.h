#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/numeric.h"

namespace kt {

// One weight layout serves every instruction set, AMX tiles included. A matrix W (n, k), used as y = x W^T, is cut into
// panels of 16 outputs; a panel is a sequence of tiles of 32 inputs. Inside a bf16 tile, line p (p = 0..15) holds the
// inputs 2p and 2p+1 of all 16 outputs: [out 0: 2p, 2p+1][out 1: 2p, 2p+1]... = 64 bytes, the B operand of TDPBF16PS.
// n and k are padded with zeros. Panels lie one after the other, so a run of panels is a matrix of its own.
inline constexpr int kPanel = 16;
inline constexpr int kTileK = 32;

// The order of one sum. A *chain* over a range of k is, tile by tile from zero: the products of the even inputs added
// up by fused multiply-adds in ascending order, those of the odd inputs likewise, and even + odd added to the result.
// This is what TDPBF16PS does (denormals are zero, everywhere in the kernels), so tiles, vectors and plain loops agree
// to the bit, whatever the number of rows.

enum class Format : uint8_t { BF16 };  // named as kt-method names them

// A view of a packed matrix; owns nothing.
struct PackedMatrix {
  Format format = Format::BF16;
  int n = 0, k = 0;                 // true sizes
  const std::byte* data = nullptr;  // 64-byte aligned

  int panels() const { return static_cast<int>(ceil_div(n, kPanel)); }
  int k_tiles() const { return static_cast<int>(ceil_div(k, kTileK)); }
  size_t panel_bytes() const { return static_cast<size_t>(k_tiles()) * kPanel * kTileK * sizeof(bf16); }
  size_t bytes() const { return panels() * panel_bytes(); }
  const std::byte* panel(int i) const { return data + i * panel_bytes(); }
};

// Packs rows [16 * panel, 16 * panel + 16) of W into one panel. `rows` points to the first of them, row-major with
// `stride` elements from one row to the next; `count` <= 16 rows exist, the others are zero; k columns, padded with
// zeros.
void pack_panel_bf16(const bf16* rows, int64_t stride, int count, int k, std::byte* panel);

}  // namespace kt
