#include "runtime/weights/floats.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "runtime/base/error.h"

namespace kt {
namespace {

// A 16-bit float of IEEE 754, by its bits.
float half_to_float(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, rest = (h & 0x7fffu) << 13;
  const float magnitude = h % 0x8000u >= 0x7c00u  ? std::bit_cast<float>(0x7f800000u | rest)  // infinite, or no number
                          : h % 0x8000u >= 0x400u ? std::bit_cast<float>(rest + (112u << 23))
                                                  : std::bit_cast<float>(rest + (113u << 23)) - 0x1p-14f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
}

template <class T, class Convert>
void convert(const std::byte* from, int64_t n, float* out, Convert to_float) {
  for (int64_t i = 0; i < n; ++i) {
    T x;
    std::memcpy(&x, from + i * static_cast<int64_t>(sizeof x), sizeof x);
    out[i] = to_float(x);
  }
}

}  // namespace

void require_floats(StoredType found, const std::string& name) {
  if (found == StoredType::f32 || found == StoredType::bf16 || found == StoredType::f16) return;
  fail(kExitModel, "{}: expected F32, BF16 or F16, found {}{}", name, name_of(found),
       found == StoredType::f8_e4m3 ? " without its scales, " + name + "_scale_inv" : "");
}

void to_floats(StoredType type, const std::byte* from, int64_t n, float* out) {
  switch (type) {
    case StoredType::f32:
      if (n) std::memcpy(out, from, static_cast<size_t>(n) * sizeof(float));
      break;
    case StoredType::bf16: convert<bf16>(from, n, out, [](bf16 x) { return to_float(x); }); break;
    case StoredType::f16: convert<uint16_t>(from, n, out, half_to_float); break;
    default: require_floats(type, "a tensor");
  }
}

void to_bf16_rounded(StoredType type, const std::byte* from, int64_t n, bf16* out) {
  if (type == StoredType::bf16) {
    if (n) std::memcpy(out, from, static_cast<size_t>(n) * sizeof(bf16));
    return;
  }
  thread_local std::vector<float> wide;
  wide.resize(static_cast<size_t>(n));
  to_floats(type, from, n, wide.data());
  std::transform(wide.begin(), wide.end(), out, to_bf16);
}

std::vector<float> read_floats(const Checkpoint& checkpoint, const std::string& name, std::vector<int64_t> shape) {
  std::vector<std::byte> scratch;
  const StoredRows stored = checkpoint.all_rows(name, shape, scratch);
  require_floats(stored.type, name);
  std::vector<float> out(stored.bytes.size() / bytes_of(stored.type));
  to_floats(stored.type, stored.bytes.data(), static_cast<int64_t>(out.size()), out.data());
  return out;
}

}  // namespace kt
