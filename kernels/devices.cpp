#include <algorithm>

#include "kernels/device.h"
#include "kernels/device_fault.h"
#include "kernels/nccl.h"

namespace kt {

size_t cuda_reserve_bytes(const StepShape& largest, int threads);  // kernels/cuda
namespace cuda_emulated {
std::unique_ptr<Device> make_device(ThreadPool& pool, int index);
}
namespace cuda {
std::unique_ptr<Device> make_device(ThreadPool& pool, int index);
DevicesHere devices_here();
size_t available_bytes(int index);
}  // namespace cuda

namespace {

std::unique_ptr<Device> make_cpu(const Ops& ops, ThreadPool& pool, int numa_node, int) {
  return make_cpu_device(ops, pool, numa_node);
}
template <std::unique_ptr<Device> (*kMake)(ThreadPool&, int)>
std::unique_ptr<Device> make(const Ops&, ThreadPool& pool, int, int index) {
  return kMake(pool, index);
}

constexpr DeviceKind kKinds[] = {
    {"cpu", make_cpu, cpu_reserve_bytes, true, true, false, nullptr, nullptr},
    {"cuda-emulated", make<cuda_emulated::make_device>, cuda_reserve_bytes, false, true, true, nullptr, nullptr},
#ifdef KTMPI_CUDA
    {"cuda", make<cuda::make_device>, cuda_reserve_bytes, false, false, true, cuda::devices_here,
     cuda::available_bytes},
#endif
};

}  // namespace

void Device::join(std::unique_ptr<Nccl>) { throw DeviceFault("this device has no NCCL"); }
void Device::sum(std::span<double>) { throw DeviceFault("this device has not joined others"); }

std::span<const DeviceKind> device_kinds() { return kKinds; }

const DeviceKind* find_device_kind(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kKinds), std::end(kKinds), [&](const DeviceKind& k) { return k.name == name; });
  return found == std::end(kKinds) ? nullptr : found;
}

std::string_view cuda_architectures() {
#ifdef KTMPI_CUDA
  return KTMPI_CUDA;
#else
  return "";
#endif
}

// Machine code runs on later minor versions of its major one, PTX on all later ones. A number alone is both.
bool runs_on(std::string_view architectures, int capability) {
  for (size_t at = 0; at < architectures.size();) {
    const std::string_view one = architectures.substr(at, architectures.find(' ', at) - at);
    at += one.size() + 1;
    int built = 0;
    for (const char digit : one.substr(0, one.find_first_not_of("0123456789"))) built = 10 * built + (digit - '0');
    const bool machine_code = !one.ends_with("-virtual"), ptx = !one.ends_with("-real");
    if (capability >= built && ((machine_code && capability / 10 == built / 10) || (ptx && built))) return true;
  }
  return false;
}

}  // namespace kt
