#include "runtime/weights/expert_tensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>

#include "kernels/format/fp8.h"
#include "runtime/base/error.h"
#include "runtime/weights/floats.h"

namespace kt {
namespace {

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

std::string_view tensor_prefix(const Checkpoint& checkpoint, const Arch& arch) {
  const auto has = [&](std::string_view prefix) {
    return !prefix.empty() && checkpoint.find(std::string(prefix) + "embed_tokens.weight");
  };
  return has(arch.other_prefix) && !has(arch.prefix) ? arch.other_prefix : arch.prefix;
}

ExpertRows expert_rows(const Checkpoint& checkpoint, const Arch& arch, const ModelConfig& config, int layer, int e) {
  const std::string at = fmt::format("{}layers.{}.mlp.experts.", tensor_prefix(checkpoint, arch), layer);
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
    case StoredType::f32: return "fp32";
    case StoredType::f8_e4m3: return "fp8";
    default: return std::string(name_of(tensor->type));
  }
}

FloatRows::FloatRows(const Checkpoint& checkpoint, const QuantSpec& quant, const RowRun& run)
    : name_(run.name), first_(run.first), count_(run.count), columns_(run.shape.back()), shape_(run.shape) {
  std::vector<int64_t> stored_shape = run.shape;
  const std::string stored = stored_as(checkpoint, run.name);
  if (stored == "fp8") {
    kind_ = Kind::fp8;
    quant_ = quant;
    scales_ = read_floats(checkpoint, run.name + "_scale_inv", scale_shape(shape_, quant_));
  } else if (stored == "int4") {
    if (shape_.size() != 2) fail(kExitModel, "{}: a stack of int4 matrices is not supported", run.name);
    if (columns_ % 8) fail(kExitModel, "{}: {} columns do not fill words of eight", run.name, columns_);
    kind_ = Kind::int4;
    quant_ = {.block_rows = 1, .block_columns = kTileK};
    scales_ = read_floats(checkpoint, run.name + "_scale", scale_shape(shape_, quant_));
    name_ += "_packed";
    stored_shape[1] /= 8;
  }
  const StoredRows rows = checkpoint.rows(name_, stored_shape, run.first, run.count, scratch_);
  type_ = rows.type;
  if (kind_ == Kind::floats) require_floats(type_, name_);
  if (kind_ == Kind::int4 && type_ != StoredType::i32)
    fail(kExitModel, "{}: expected I32, found {}", name_, name_of(type_));
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
  const int64_t at = row * columns_ + columns.begin;
  if (kind_ == Kind::floats) {
    const auto from = static_cast<size_t>(at) * bytes_of(type_);
    return to_floats(type_, bytes_.data() + from, columns.size(), out);
  }
  const float* scales =
      scales_.data() + scale_row(shape_, quant_, first_ + row) * ceil_div(columns_, quant_.block_columns);
  for (int64_t c = columns.begin; c < columns.end; ++c) {
    const float scale = scales[c / quant_.block_columns];
    if (kind_ == Kind::fp8) {
      *out++ = fp8_values()[static_cast<uint8_t>(bytes_[row * columns_ + c])] * scale;
    } else {  // value + 8, low nibble first
      const int u = (static_cast<int>(bytes_[row * columns_ / 2 + c / 2]) >> (4 * (c % 2))) & 15;
      *out++ = static_cast<float>(u - 8) * scale;
    }
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
