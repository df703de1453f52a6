#include "kernels/batch.h"

#include <cmath>

#include "kernels/in_lines.h"

namespace kt {

void rotary_angles(Batch& batch, ThreadPool& pool) {
  const int half = batch.half();
  batch.cosines.resize(static_cast<size_t>(batch.rows()) * half);
  batch.sines.resize(batch.cosines.size());
  in_lines(pool, batch.rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int i = 0; i < half; ++i) {
        const double angle = batch.positions[r] * batch.frequencies[i];
        batch.cosines[static_cast<size_t>(r) * half + i] = static_cast<float>(std::cos(angle));
        batch.sines[static_cast<size_t>(r) * half + i] = static_cast<float>(std::sin(angle));
      }
  });
}

}  // namespace kt
