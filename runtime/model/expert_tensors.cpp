#include "runtime/model/expert_tensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "kernels/format/fp8.h"
#include "runtime/base/error.h"
#include "runtime/model/half.h"

namespace kt {
namespace {

template <class T>
T load(const std::byte* p) {
  T x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

const std::array<float, 256>& fp8_values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> v{};
    for (size_t i = 0; i < v.size(); ++i) v[i] = Fp8Format::value(static_cast<uint8_t>(i));
    return v;
  }();
  return values;
}

// Takes tiny values out; false when one is infinite or not a number.
bool clean(float* x, int64_t n) {
  constexpr uint32_t kExponent = 0x7f800000u, kTiny = (127u - 100u) << 23;
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t exponent = std::bit_cast<uint32_t>(x[i]) & kExponent;
    bad |= exponent == kExponent;
    x[i] = exponent < kTiny ? 0.0f : x[i];
  }
  return bad == 0;
}

}  // namespace

ExpertRows expert_rows(const Checkpoint& checkpoint, const Arch& arch, const ModelConfig& config, int layer, int e) {
  const std::string at = fmt::format("{}layers.{}.mlp.experts.", arch.prefix, layer);
  const int64_t experts = config.moe.experts, inter = config.moe.inter, hidden = config.hidden;
  const bool fused =
      checkpoint.find(at + "gate_up_proj") ||
      (arch.experts == ExpertLayout::fused_gate_up && stored_as(checkpoint, at + "0.gate_proj.weight") == "nothing");
  if (fused)
    return {.gate = {at + "gate_up_proj", {experts, 2 * inter, hidden}, e * 2 * inter, inter},
            .up = {at + "gate_up_proj", {experts, 2 * inter, hidden}, e * 2 * inter + inter, inter},
            .down = {at + "down_proj", {experts, hidden, inter}, e * hidden, hidden}};
  const std::string expert = fmt::format("{}{}.", at, e);
  return {.gate = {expert + "gate_proj.weight", {inter, hidden}, 0, inter},
          .up = {expert + "up_proj.weight", {inter, hidden}, 0, inter},
          .down = {expert + "down_proj.weight", {hidden, inter}, 0, hidden}};
}

std::string stored_as(const Checkpoint& checkpoint, const std::string& name) {
  if (checkpoint.find(name + "_packed")) return "int4";
  const StoredTensor* tensor = checkpoint.find(name);
  if (!tensor) return "nothing";
  switch (tensor->type) {
    case StoredType::bf16: return "bf16";
    case StoredType::f16: return "fp16";
    case StoredType::f8_e4m3: return "fp8";
    default: return std::string(name_of(tensor->type));
  }
}

FloatRows::FloatRows(const Checkpoint& checkpoint, const QuantSpec& quant, const RowRun& run)
    : name_(run.name), first_(run.first), count_(run.count), columns_(run.shape.back()) {
  std::vector<int64_t> shape = run.shape;
  StoredType expected = StoredType::bf16;
  const std::string stored = stored_as(checkpoint, run.name);
  if (stored == "fp16") {
    kind_ = Kind::f16;
    expected = StoredType::f16;
  } else if (stored == "fp8" || stored == "int4") {
    if (shape.size() != 2) fail(kExitModel, "{}: a stack of {} matrices is not supported", run.name, stored);
    kind_ = stored == "fp8" ? Kind::fp8 : Kind::int4;
    expected = stored == "fp8" ? StoredType::f8_e4m3 : StoredType::i32;
    block_rows_ = stored == "fp8" ? quant.block_rows : 1;
    scale_block_ = stored == "fp8" ? quant.block_columns : kTileK;
    scales_in_row_ = ceil_div(columns_, scale_block_);
    scales_ = read_floats(checkpoint, run.name + (stored == "fp8" ? "_scale_inv" : "_scale"),
                          {ceil_div(shape[0], block_rows_), scales_in_row_});
    if (kind_ == Kind::int4) {
      if (columns_ % 8) fail(kExitModel, "{}: {} columns do not fill words of eight", run.name, columns_);
      name_ += "_packed";
      shape[1] /= 8;
    }
  }
  const StoredRows rows = checkpoint.rows(name_, shape, run.first, run.count, scratch_);
  if (rows.type != expected)
    fail(kExitModel, "{}: expected {}, found {}", name_, name_of(expected), name_of(rows.type));
  bytes_ = rows.bytes;
}

void FloatRows::read(int64_t first, int64_t count, Range columns, float* out) const {
  for (int64_t r = first; r < first + count; ++r, out += columns.size()) {
    read_row(r, columns, out);
    if (!clean(out, columns.size()))
      fail(kExitModel, "{}: row {} has a value that is infinite or not a number", name_, first_ + r);
  }
}

void FloatRows::read_row(int64_t row, Range columns, float* out) const {
  const float* scales = scales_.data() + (first_ + row) / block_rows_ * scales_in_row_;
  const std::byte* bytes = bytes_.data();
  switch (kind_) {
    case Kind::bf16:
      for (int64_t c = columns.begin; c < columns.end; ++c)
        *out++ = to_float(load<bf16>(bytes + (row * columns_ + c) * 2));
      break;
    case Kind::f16:
      for (int64_t c = columns.begin; c < columns.end; ++c)
        *out++ = half_to_float(load<uint16_t>(bytes + (row * columns_ + c) * 2));
      break;
    case Kind::fp8:
      for (int64_t c = columns.begin; c < columns.end; ++c)
        *out++ = fp8_values()[static_cast<uint8_t>(bytes[row * columns_ + c])] * scales[c / scale_block_];
      break;
    case Kind::int4:  // value + 8, low nibble first
      for (int64_t c = columns.begin; c < columns.end; ++c) {
        const int u = (static_cast<int>(bytes[row * columns_ / 2 + c / 2]) >> (4 * (c % 2))) & 15;
        *out++ = static_cast<float>(u - 8) * scales[c / scale_block_];
      }
      break;
  }
}

void FloatRows::forget() const {
  if (!scratch_.empty() || bytes_.empty()) return;
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes_.data()), end = begin + bytes_.size();
  // A file's pages that are shared with a neighbour are read again when it needs them.
  const uintptr_t first_page = begin / page * page;
  ::madvise(reinterpret_cast<void*>(first_page), end - first_page, MADV_DONTNEED);
}

}  // namespace kt
