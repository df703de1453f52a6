#include <algorithm>

#include "kernels/device.h"

namespace kt {

size_t cuda_reserve_bytes(const StepShape& largest, int threads);  // kernels/cuda
namespace cuda_emulated {
std::unique_ptr<Device> make_device(ThreadPool& pool);
}
namespace cuda {
std::unique_ptr<Device> make_device(ThreadPool& pool);
}

namespace {

template <std::unique_ptr<Device> (*kMake)(ThreadPool&)>
std::unique_ptr<Device> make(const Ops&, ThreadPool& pool, int) {
  return kMake(pool);
}

constexpr DeviceKind kKinds[] = {
    {"cpu", make_cpu_device, cpu_reserve_bytes, true, true},
    {"cuda-emulated", make<cuda_emulated::make_device>, cuda_reserve_bytes, false, true},
#ifdef KTMPI_CUDA
    {"cuda", make<cuda::make_device>, cuda_reserve_bytes, false, false},
#endif
};

}  // namespace

std::span<const DeviceKind> device_kinds() { return kKinds; }

const DeviceKind* find_device_kind(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kKinds), std::end(kKinds), [&](const DeviceKind& k) { return k.name == name; });
  return found == std::end(kKinds) ? nullptr : found;
}

}  // namespace kt
