#include <algorithm>
#include <utility>

#include "runtime/placement/strategies.h"

namespace kt {
namespace {

constexpr uint64_t kSeed = 42;

// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
class SplitMix {
 public:
  // Uniform below `bound`: draws again what would favour the low numbers.
  uint64_t below(uint64_t bound) {
    const uint64_t rest = -bound % bound;  // 2^64 mod bound
    uint64_t draw = next();
    while (draw < rest) draw = next();
    return draw % bound;
  }

 private:
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  uint64_t state_ = kSeed;
};

}  // namespace

// Fisher and Yates' shuffle of all experts from the front, as far as the budget goes. A larger budget therefore holds
// all that a smaller one does.
HotSets place_at_random(const PlacementRequest& request) {
  std::vector<ExpertAt> order = all_experts(request);
  SplitMix generator;
  for (size_t i = 0; i < static_cast<size_t>(request.budget); ++i)
    std::swap(order[i], order[i + generator.below(order.size() - i)]);
  return take_first(request, order);
}

}  // namespace kt
