#include "kernels/ops.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cpu/tables.h"

namespace kt {
namespace {

// Whatever has AVX2 has F16C, which clang 14 cannot ask for.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool has_bf16() { return has_vnni() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi"); }
// Tiles need the processor (CPUID 7.0 EDX: bits 22 AMX-BF16, 24 AMX-TILE, 25 AMX-INT8) and the kernel's permission for
// the state.
bool has_amx() {
  if (!has_bf16()) return false;
  unsigned a = 7, b = 0, c = 0, d = 0;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  if (!(d & (1u << 22)) || !(d & (1u << 24)) || !(d & (1u << 25))) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::vector<const Ops*> find_ops() {
  std::vector<const Ops*> ops{&kRefOps};
  if (has_avx2()) ops.push_back(&kAvx2Ops);
  if (has_bf16()) ops.push_back(&kAmxEmulatedOps);
  if (has_avx512()) ops.push_back(&kAvx512Ops);
  if (has_vnni()) ops.push_back(&kAvx512VnniOps);
  if (has_bf16()) ops.push_back(&kAvx512Bf16Ops);
  if (has_amx()) ops.push_back(&kAmxOps);
  return ops;
}

}  // namespace

std::span<const Ops* const> available_ops() {
  static const std::vector<const Ops*> ops = find_ops();
  return ops;
}

const Ops& choose_ops() {
  const char* wanted = std::getenv("KTMPI_ISA");
  if (!wanted || !*wanted) return *available_ops().back();
  std::string names;
  for (const Ops* ops : available_ops()) {
    if (ops->name == wanted) return *ops;
    names += (names.empty() ? "" : ", ") + std::string(ops->name);
  }
  throw std::runtime_error("KTMPI_ISA=" + std::string(wanted) + ": this machine has " + names);
}

}  // namespace kt
