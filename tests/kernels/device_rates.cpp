// How fast bytes come to a device and back, and what one operation costs that has next to nothing to do.

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <functional>

#include "kernels/device.h"

namespace kt {
namespace {

constexpr int kRepeats = 5, kOperations = 200;

double best_seconds(const std::function<void()>& work) {
  double best = 1e9;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

void measure(const DeviceKind& kind, size_t bytes) {
  ThreadPool pool(1);
  const std::unique_ptr<Device> device = kind.make(choose_ops(), pool, -1, 0);
  const Buffer there = device->take(bytes), second = device->take(bytes), pinned = device->take_host(bytes);
  const auto gbs = [&](void* to, const void* from, size_t touched) {
    const double seconds = best_seconds([&] {
      device->copy(to, from, bytes);
      device->wait();
    });
    return static_cast<double>(touched) / seconds / 1e9;
  };
  const double to_device = gbs(there.bytes(), pinned.bytes(), bytes),
               to_host = gbs(pinned.bytes(), there.bytes(), bytes),
               inside = gbs(second.bytes(), there.bytes(), 2 * bytes);  // read and written

  const Buffer memory = device->take(4096);
  const auto* w = memory.as<float>();
  const Mat<float> x{memory.as<float>() + 64, 64, 1, 64};
  const Mat<bf16> h{reinterpret_cast<bf16*>(memory.bytes() + 1024), 64, 1, 64};
  const Mat<double> y{reinterpret_cast<double*>(memory.bytes() + 2048), 64, 1, 64};
  const auto norms = [&](int count) {
    return best_seconds([&] {
      for (int i = 0; i < count; ++i) device->norm(x, w, 1e-6f, h, y);
      device->wait();
    });
  };
  const double one = norms(1), many = norms(kOperations);
  fmt::print(
      "{{\"device\": \"{}\", \"mib\": {}, \"to_device_gbs\": {:.3f}, \"to_host_gbs\": {:.3f}, "
      "\"inside_gbs\": {:.3f}, \"operation_and_wait_us\": {:.2f}, \"operation_in_a_row_us\": {:.2f}}}\n",
      kind.name, bytes >> 20, to_device, to_host, inside, one * 1e6, many * 1e6 / kOperations);
}

}  // namespace
}  // namespace kt

int main(int argc, char** argv) {
  const kt::DeviceKind* kind = kt::find_device_kind(argc > 1 ? argv[1] : "cuda");
  if (!kind) {
    fmt::print(stderr, "device_rates: this program has no such device\n");
    return 2;
  }
  try {
    kt::measure(*kind, static_cast<size_t>(argc > 2 ? std::max(1, std::atoi(argv[2])) : 1024) << 20);
  } catch (const std::exception& e) {
    fmt::print(stderr, "device_rates: {}\n", e.what());
    return 1;
  }
}
