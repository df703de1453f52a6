#include "launcher/version.h"

#include <mpi.h>

#include <cstdio>
#include <stdexcept>
#include <string_view>

#include "kernels/device.h"
#include "kernels/device_fault.h"
#include "kernels/nccl.h"
#include "kernels/ops.h"
#include "launcher/commands.h"
#include "runtime/base/error.h"

namespace kt {
namespace {

// Every table of kernels that runs here, and the one that will: "ref, avx2, avx512; used: avx512".
std::string kernel_tables() {
  std::string names;
  for (const Ops* ops : available_ops()) names += fmt::format("{}{}", names.empty() ? "" : ", ", ops->name);
  try {
    return fmt::format("{}; used: {}", names, choose_ops().name);
  } catch (const std::runtime_error& e) {
    fail(kExitUsage, "{}", e.what());
  }
}

std::string nccl() {
  try {
    return "NCCL " + Nccl::version();
  } catch (const DeviceFault& e) {
    return e.what();
  }
}

// "built for 80-real 90; NCCL 2.28.9; 1 here: NVIDIA H200 ...".
std::string gpus() {
  const DeviceKind* kind = find_device_kind("cuda");
  if (!kind) return "not built in (scripts/build cuda)";
  std::string text = fmt::format("built for {}; {}; ", cuda_architectures(), nccl());
  try {
    const DevicesHere here = kind->list();
    if (here.devices.empty()) return text + fmt::format("none here ({})", here.why_none);
    text += fmt::format("{} here", here.devices.size());
    for (const DeviceHere& device : here.devices)
      text += (&device == &here.devices.front() ? ": " : ", ") + device.name;
    return text;
  } catch (const DeviceFault& e) {
    return text + e.what();
  }
}

}  // namespace

// First line of what the library says of itself; it may be asked before MPI is initialised.
std::string mpi_library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string_view whole(text, static_cast<size_t>(length));
  return std::string(whole.substr(0, whole.find_first_of(",\n")));
}

int version_command(int, char**) {
  fmt::print("ktmpi {}\n", KTMPI_VERSION);
  fmt::print("compiler: g++ {}\n", __VERSION__);
  fmt::print("mpi: {}\n", mpi_library());
  fmt::print("kernels: {}\n", kernel_tables());
  fmt::print("cuda: {}\n", gpus());
  fmt::print("found at build: {}\n", KTMPI_FOUND);
  return kExitOk;
}

}  // namespace kt
