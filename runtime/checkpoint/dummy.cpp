#include "runtime/checkpoint/dummy.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/numeric.h"
#include "runtime/base/error.h"
#include "runtime/checkpoint/shown.h"

namespace kt {
namespace {

constexpr float kStdDev = 0.02f;

// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (SplitMix64), finaliser.
uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t hash_name(std::string_view name) {
  uint64_t h = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

// The random bits of one element: a 32-bit hash of the column, keyed twice by the row so that rows do not overlap.
struct RowKey {
  uint32_t a, b;
  uint32_t bits(uint32_t column) const {
    uint32_t x = column * 0x9e3779b9u + a;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15) ^ b) * 0x846ca68bu;
    return x ^ (x >> 16);
  }
};

// The sum of four random bytes is close to normal (Irwin-Hall): mean 510, variance 4 (256^2 - 1) / 12.
void fill_normal(RowKey key, float mean, std::span<bf16> out) {
  constexpr float kScale = kStdDev / 147.80166f;
  const auto columns = static_cast<uint32_t>(out.size());
  bf16* y = out.data();
  for (uint32_t c = 0; c < columns; ++c) {
    const uint32_t x = key.bits(c);
    const uint32_t pairs = (x & 0x00ff00ffu) + ((x >> 8) & 0x00ff00ffu);
    const auto sum = static_cast<int32_t>((pairs & 0xffffu) + (pairs >> 16));
    const auto u = std::bit_cast<uint32_t>(static_cast<float>(sum - 510) * kScale + mean);
    y[c] = static_cast<bf16>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);  // to_bf16 without the test for NaN
  }
}

double uniform(RowKey key, uint32_t column) { return key.bits(column) * 0x1p-32; }

// Decay of the recurrent layers, as Mamba-2 starts it: A in [1, 16], softplus(dt_bias) log-uniform in [0.001, 0.1].
void fill_a_log(RowKey key, std::span<bf16> out) {
  for (uint32_t c = 0; c < out.size(); ++c) out[c] = to_bf16(static_cast<float>(std::log(1 + 15 * uniform(key, c))));
}
void fill_dt_bias(RowKey key, std::span<bf16> out) {
  for (uint32_t c = 0; c < out.size(); ++c) {
    const double dt = 0.001 * std::pow(100.0, uniform(key, c));
    out[c] = to_bf16(static_cast<float>(std::log(std::expm1(dt))));
  }
}

class DummyCheckpoint final : public Checkpoint {
 public:
  explicit DummyCheckpoint(const DummyOptions& options) : options_(options) {}

  const StoredTensor* find(std::string_view) const override { return nullptr; }
  std::vector<std::string_view> names() const override { return {}; }
  size_t total_bytes() const override { return 0; }

  StoredRows rows(std::string_view name, std::span<const int64_t> shape, int64_t first, int64_t count,
                  std::vector<std::byte>& scratch) const override {
    const auto all = count_rows(shape);
    if (!all || first < 0 || count < 0 || first > all->rows - count) {
      fail(kExitModel, "dummy tensor {}: rows [{}, {} + {}) were asked for, it has {}", shown(name), first, first,
           count, all ? all->rows : 0);
    }
    const auto columns = static_cast<size_t>(all->columns);
    const size_t bytes = static_cast<size_t>(count) * columns * sizeof(bf16);
    if (scratch.size() < bytes) scratch.resize(bytes);
    auto* values = reinterpret_cast<bf16*>(scratch.data());
    for (int64_t row = 0; row < count; ++row) fill_row(name, first + row, {values + row * columns, columns});
    return {StoredType::bf16, std::span(scratch).first(bytes)};
  }

 private:
  void fill_row(std::string_view name, int64_t row, std::span<bf16> out) const {
    const uint64_t bits = mix64(mix64(hash_name(name) ^ options_.seed) + static_cast<uint64_t>(row));
    const RowKey key{static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)};
    if (name.ends_with(".A_log")) return fill_a_log(key, out);
    if (name.ends_with(".dt_bias")) return fill_dt_bias(key, out);
    fill_normal(key, mean_of(name), out);
  }

  // The gated norm of linear attention is plain in every model.
  float mean_of(std::string_view name) const {
    if (!name.ends_with("norm.weight")) return 0.0f;
    return options_.norm_plus_one && !name.ends_with("linear_attn.norm.weight") ? 0.0f : 1.0f;
  }

  DummyOptions options_;
};

}  // namespace

std::unique_ptr<Checkpoint> dummy_checkpoint(const DummyOptions& options) {
  return std::make_unique<DummyCheckpoint>(options);
}

}  // namespace kt
