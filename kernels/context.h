#pragma once

#include <algorithm>

#include "kernels/ops.h"
#include "kernels/thread_pool.h"

namespace kt {

// What code on the CPU computes with: a table of kernels and the threads to run them on. Passed, never global.
struct KernelContext {
  const Ops& ops;
  ThreadPool& pool;

  // Of parts of [0, n), about four per thread, each a multiple of `unit` but the last. A single thread gets 16: who
  // watches it sees it go on with each.
  int64_t step(int64_t n, int64_t unit) const {
    const int64_t wanted = pool.size() == 1 ? 16 : 4 * pool.size();
    return round_up(std::max<int64_t>(ceil_div(n, wanted), 1), unit);
  }
  // Calls part(begin, end) on each.
  template <class Part>
  void split(int64_t n, int64_t unit, const Part& part) const {
    const int64_t step = this->step(n, unit);
    pool.run(ceil_div(n, step),
             [&](int64_t i) { part(static_cast<int>(i * step), static_cast<int>(std::min(n, (i + 1) * step))); });
  }
};

}  // namespace kt
