#pragma once

#include <algorithm>
#include <cstddef>

namespace kt {

// Messages go in pieces that MPI can count. One whose size both ends know: so many, all of the largest size but the
// last one; an empty message is one piece.
inline size_t piece_count(size_t bytes, size_t piece) { return bytes ? (bytes - 1) / piece + 1 : 1; }
inline size_t piece_size(size_t bytes, size_t piece, size_t index) { return std::min(piece, bytes - index * piece); }
// One whose size only the sender knows ends with the first piece that is smaller than the largest, which may be empty.
inline size_t open_piece_count(size_t bytes, size_t piece) { return bytes / piece + 1; }

}  // namespace kt
