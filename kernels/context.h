#pragma once

#include <algorithm>

#include "kernels/ops.h"
#include "kernels/thread_pool.h"

namespace kt {

// What compute code gets: a table of kernels and the threads to run them on. Passed, never global.
struct KernelContext {
  const Ops& ops;
  ThreadPool& pool;

  // Calls part(begin, end) on parts of [0, n), about four per thread, each a multiple of `unit` but the last.
  template <class Part>
  void split(int64_t n, int64_t unit, const Part& part) const {
    const int64_t wanted = pool.size() == 1 ? 1 : 4 * pool.size();
    const int64_t step = round_up(std::max<int64_t>(ceil_div(n, wanted), 1), unit);
    pool.run(ceil_div(n, step),
             [&](int64_t i) { part(static_cast<int>(i * step), static_cast<int>(std::min(n, (i + 1) * step))); });
  }

  // The kernels of the same names over all panels.
  void matmul(const Rows& x, const PackedMatrix& w, float* out, int64_t ldo) const {
    split(w.panels(), 4, [&](int begin, int end) { ops.matmul(x, w, begin, end, out, ldo); });
  }
  void swiglu(const Rows& x, const PackedMatrix& gate_up, bf16* h, int64_t ldh) const {
    split(gate_up.panels() / 2, 2, [&](int begin, int end) { ops.swiglu(x, gate_up, begin, end, h, ldh); });
  }
  void matmul_add(const Rows& x, const PackedMatrix& w, int slice, const float* scale, double* out, int64_t ldo) const {
    split(w.panels(), 4,
          [&](int begin, int end) { ops.matmul_add(x, w, slice, begin, end, scale, out, ldo, nullptr); });
  }
};

}  // namespace kt
