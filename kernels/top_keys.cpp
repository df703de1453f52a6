#include "kernels/top_keys.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace kt {
namespace {

// Orders like the score: negative floats have all bits flipped, the others the sign.
uint32_t rank_of(float score) {
  const auto u = std::bit_cast<uint32_t>(score + 0.0f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

constexpr int kBinBits = 12;

}  // namespace

// A histogram over the leading bits finds the bin of the k-th score; only that bin is searched further.
void top_keys(const float* scores, int n, int k, int32_t* positions, uint32_t* room) {
  int bins[1 << kBinBits] = {};
  for (int i = 0; i < n; ++i) ++bins[rank_of(scores[i]) >> (32 - kBinBits)];
  int above = 0, bin = (1 << kBinBits) - 1;
  for (; above + bins[bin] < k; --bin) above += bins[bin];

  uint32_t* end = room;
  for (int i = 0; i < n; ++i)
    if (const uint32_t rank = rank_of(scores[i]); static_cast<int>(rank >> (32 - kBinBits)) == bin) *end++ = rank;
  std::nth_element(room, room + (k - above - 1), end, std::greater<>());
  const uint32_t last = room[k - above - 1];
  int ties = k - above;  // of rank `last` that are taken
  for (const uint32_t* rank = room; rank < end; ++rank) ties -= *rank > last;

  for (int i = 0; i < n; ++i) {
    const uint32_t rank = rank_of(scores[i]);
    if (rank > last || (rank == last && ties-- > 0)) *positions++ = i;
  }
}

}  // namespace kt
