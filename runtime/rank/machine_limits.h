#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/buffer.h"
#include "kernels/ops.h"
#include "kernels/thread_pool.h"

namespace kt {

// What the machine can do at most, as benchmarks find it.

// GB/s: the best of several ways to read memory that fits in no cache, or its first `most` bytes, all threads at once,
// each way `repeats` times.
double measure_dram(ThreadPool& pool, const Ops& ops, const Buffer& memory, size_t most = SIZE_MAX, int repeats = 5);
// GFLOP/s (of bf16 or float32) or GOP/s (of int8) of all threads, from registers.
double measure_peak(ThreadPool& pool, const Ops& ops, bool int8);

}  // namespace kt
