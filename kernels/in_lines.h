#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/numeric.h"
#include "kernels/thread_pool.h"

namespace kt {

// Calls work(begin, end) on parts of [0, n), each of at least `least` and of whole cache lines of float64, on all
// threads if there is work for them.
template <class Work>
void in_lines(ThreadPool& pool, int64_t n, int64_t least, const Work& work) {
  if (n <= 0) return;
  const int64_t parts = std::clamp<int64_t>(n / least, 1, 4ll * pool.size());
  const int64_t step = round_up(ceil_div(n, parts), 8);
  pool.run(ceil_div(n, step), [&](int64_t i) { work(i * step, std::min(n, (i + 1) * step)); });
}

// Fewer additions than these are done sooner by one thread than told to another.
inline constexpr int64_t kWorthAThread = 4096;

}  // namespace kt
