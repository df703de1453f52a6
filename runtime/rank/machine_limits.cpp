#include "runtime/rank/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

namespace kt {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

double measure_dram(ThreadPool& pool, const Ops& ops, const Buffer& memory, size_t most, int repeats) {
  double best = 0.0;
  const int64_t parts = pool.size();
  const size_t part =
      std::min<size_t>(std::min(memory.size(), most) / static_cast<size_t>(parts), 1ull << 30) / 4096 * 4096;
  for (int repeat = 0; repeat < repeats; ++repeat)
    for (int streams : {1, 4, 8}) {
      std::vector<uint64_t> sums(static_cast<size_t>(parts));
      const auto start = Clock::now();
      pool.run(parts, [&](int64_t i) {
        sums[static_cast<size_t>(i)] = ops.read(memory.bytes() + static_cast<size_t>(i) * part, part, streams);
      });
      best = std::max(best, static_cast<double>(part) * static_cast<double>(parts) / seconds_since(start) / 1e9);
    }
  return best;
}

double measure_peak(ThreadPool& pool, const Ops& ops, bool int8) {
  int64_t rounds = 1 << 14;
  double best = 0.0;
  for (int repeat = 0; repeat < 12; ++repeat) {
    std::vector<double> done(static_cast<size_t>(pool.size()));
    const auto start = Clock::now();
    pool.run(pool.size(), [&](int64_t i) { done[static_cast<size_t>(i)] = ops.multiply(int8, rounds); });
    const double seconds = seconds_since(start);
    if (seconds < 0.02) rounds *= 4;
    best = std::max(best, std::accumulate(done.begin(), done.end(), 0.0) / seconds / 1e9);
  }
  return best;
}

}  // namespace kt
