#pragma once

// A GPU's device beside the CPU's specification: the same work on both, and every bit compared. The device is the
// emulated one, or the kind that KTMPI_TEST_DEVICE names, of a program that is built with it.

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/ops.h"

namespace kt {

inline const DeviceKind& tested_kind() {
  const char* asked = std::getenv("KTMPI_TEST_DEVICE");
  const DeviceKind* kind = find_device_kind(asked ? asked : "cuda-emulated");
  if (!kind) throw std::runtime_error(std::string("KTMPI_TEST_DEVICE: this program has no device ") + asked);
  return *kind;
}

// Two devices, and memory of both that tests fill alike. Device memory is read through the devices only.
struct Pair {
  ThreadPool pool{1};
  std::unique_ptr<Device> cpu = make_cpu_device(*available_ops().front(), pool, -1);
  std::unique_ptr<Device> gpu = tested_kind().make(*available_ops().front(), pool, -1, 0);

  void reserve(const StepShape& shape) const {
    cpu->reserve(shape);
    gpu->reserve(shape);
  }
  // Each device gets a batch of its own, made alike; the batches stay with the pair.
  void begin(const Batch& batch) {
    cpu_batch = gpu_batch = batch;
    cpu->begin(cpu_batch);
    gpu->begin(gpu_batch);
  }
  Batch cpu_batch, gpu_batch;

  // Schedules of threads, blocks and streams that every operation is run in by the emulation; others have their own.
  struct Schedule {
    simt::Emulation::Order order;
    uint64_t seed;
    simt::Emulation::Pace pace;
  };
  static std::vector<Schedule> schedules() {
    using Order = simt::Emulation::Order;
    using Pace = simt::Emulation::Pace;
    return {{Order::kAscending, 1, Pace::kEager},
            {Order::kDescending, 1, Pace::kLazy},
            {Order::kShuffled, 1, Pace::kLazy},
            {Order::kShuffled, 2, Pace::kRandom}};
  }
  template <class Run>
  static void in_every_schedule(const Run& run) {
    if (!tested_kind().on_host) return run();
    for (const Schedule& s : schedules()) {
      SCOPED_TRACE("order " + std::to_string(static_cast<int>(s.order)) + ", seed " + std::to_string(s.seed) +
                   ", pace " + std::to_string(static_cast<int>(s.pace)));
      simt::emulation.order = s.order;
      simt::emulation.seed = s.seed;
      simt::emulation.pace = s.pace;
      run();
    }
    simt::emulation = {};
  }
};

// The same array on both devices.
template <class T>
struct Both {
  const Pair& pair;
  size_t count;
  Buffer cpu_memory, gpu_memory;

  Both(const Pair& on, size_t n) : pair(on), count(n) {
    cpu_memory = pair.cpu->take(n * sizeof(T));
    gpu_memory = pair.gpu->take(n * sizeof(T));
  }
  Both(const Pair& on, const std::vector<T>& values) : Both(on, values.size()) { set(values); }

  void set(const std::vector<T>& values) {
    pair.cpu->write(cpu(), values.data(), values.size() * sizeof(T));
    pair.gpu->write(gpu(), values.data(), values.size() * sizeof(T));
  }
  T* cpu() const { return cpu_memory.as<T>(); }
  T* gpu() const { return gpu_memory.as<T>(); }
  Mat<T> cpu_mat(int rows, int columns, int64_t ld) const { return {cpu(), ld, rows, columns}; }
  Mat<T> gpu_mat(int rows, int columns, int64_t ld) const { return {gpu(), ld, rows, columns}; }

  std::vector<T> found() const {  // on the GPU
    if (!count) return {};
    const Buffer host = pair.gpu->take_host(count * sizeof(T));
    pair.gpu->copy(host.bytes(), gpu(), count * sizeof(T));
    pair.gpu->wait();
    return {host.as<T>(), host.as<T>() + count};
  }
  std::vector<T> expected() const { return {cpu(), cpu() + count}; }
  // Every element, padding included.
  void expect_same(const std::string& what) const {
    const std::vector<T> a = found(), b = expected();
    for (size_t i = 0; i < count; ++i)
      ASSERT_EQ(0, std::memcmp(&a[i], &b[i], sizeof(T)))
          << what << ", element " << i << ": found " << +a[i] << ", expected " << +b[i];
  }
  // Of a matrix the true columns of each row.
  void expect_same(const std::string& what, int rows, int columns, int64_t ld) const {
    const std::vector<T> a = found(), b = expected();
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) {
        const size_t i = static_cast<size_t>(r * ld + c);
        ASSERT_EQ(0, std::memcmp(&a[i], &b[i], sizeof(T)))
            << what << ", row " << r << ", column " << c << ": found " << +a[i] << ", expected " << +b[i];
      }
  }
};

inline std::vector<float> normal_floats(size_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(0.0f, scale);
  std::vector<float> x(n);
  for (float& v : x) v = draw(random);
  return x;
}
inline std::vector<bf16> normal_bf16(size_t n, unsigned seed, float scale = 1.0f) {
  std::vector<bf16> out;
  for (float v : normal_floats(n, seed, scale)) out.push_back(to_bf16(v));
  return out;
}

}  // namespace kt
