// The operations of a device that are not a mixer's, one body over all devices: against float64, and equal bits.

#include "kernels/device.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>

#include "kernels/format/amxint.h"
#include "kernels/format/bf16.h"

namespace kt {
namespace {

constexpr int kRows = 5, kHidden = 80;

struct OnDevice {
  std::string name;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Device> device;
};
std::vector<OnDevice> devices() {
  std::vector<OnDevice> all;
  for (const Ops* ops : available_ops())
    for (int threads : {1, 3}) {
      auto pool = std::make_unique<ThreadPool>(threads);
      auto device = make_cpu_device(*ops, *pool, -1);
      all.push_back({std::string(ops->name) + " " + std::to_string(threads), std::move(pool), std::move(device)});
    }
  return all;
}

// Matrices in a device's memory.
struct Memory {
  Buffer bytes;
  Mat<float> x, out, second;
  Mat<bf16> h;
  Mat<double> y;

  static Memory lay_out(Layout& l) {
    return {.bytes = {},
            .x = l.matrix<float>(kRows, kHidden, kPanel),
            .out = l.matrix<float>(kRows, 48, kPanel),
            .second = l.matrix<float>(kRows, 100, kPanel),
            .h = l.matrix<bf16>(kRows, kHidden, kTileK),
            .y = l.matrix<double>(kRows, kHidden, kPanel)};
  }
  static Memory of(Device& device) {
    Buffer taken;
    Memory m = take_laid_out(
        taken, [&](size_t bytes) { return device.take(bytes); }, lay_out);
    m.bytes = std::move(taken);
    return m;
  }
};

std::vector<float> normal(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw;
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = draw(random);
  return x;
}

// A random bf16 matrix, packed.
struct Packed {
  std::vector<bf16> rows;
  std::unique_ptr<std::byte[], void (*)(std::byte*)> bytes{nullptr, nullptr};
  PackedMatrix matrix;

  Packed(int n, int k, unsigned seed) : matrix{.n = n, .k = k} {
    for (float v : normal(n * k, seed)) rows.push_back(to_bf16(v));
    bytes = {static_cast<std::byte*>(std::aligned_alloc(64, matrix.bytes())), [](std::byte* p) { std::free(p); }};
    for (int p = 0; p < matrix.panels(); ++p)
      Bf16Format::pack(&rows[static_cast<size_t>(p) * kPanel * k], k, std::min(kPanel, n - p * kPanel), k,
                       bytes.get() + p * matrix.panel_bytes());
    matrix.data = bytes.get();
  }
  double product(const Mat<bf16>& x, int row, int output) const {
    double sum = 0;
    for (int i = 0; i < matrix.k; ++i)
      sum += static_cast<double>(to_float(x.row(row)[i])) * to_float(rows[static_cast<size_t>(output) * matrix.k + i]);
    return sum;
  }
};

void fill(Device& device, Memory& m) {
  const std::vector<float> x = normal(kRows * kHidden, 1), y = normal(kRows * kHidden, 2);
  device.embed(m.x, [&](int row, bf16* to) {
    for (int i = 0; i < kHidden; ++i) to[i] = to_bf16(x[static_cast<size_t>(row) * kHidden + i]);
  });
  for (int r = 0; r < kRows; ++r) {
    std::vector<double> row(y.begin() + r * kHidden, y.begin() + (r + 1) * kHidden);
    device.write(m.y.row(r), row.data(), row.size() * sizeof(double));
  }
}

// bf16 rounds by at most 2^-8 of a value; float32 sums before are far within that.
TEST(Device, AddsSumsAndNormsRows) {
  const std::vector<float> w = normal(kHidden, 3), x = normal(kRows * kHidden, 1), y = normal(kRows * kHidden, 2);
  for (const OnDevice& on : devices()) {
    Memory m = Memory::of(*on.device);
    fill(*on.device, m);
    on.device->add_norm(m.x, m.y, w.data(), 1e-6f, m.h);
    on.device->wait();

    for (int r = 0; r < kRows; ++r) {
      std::vector<double> sum(kHidden);
      double squares = 0;
      for (int i = 0; i < kHidden; ++i) {
        const size_t at = static_cast<size_t>(r) * kHidden + i;
        sum[i] = static_cast<double>(to_float(to_bf16(x[at]))) + y[at];
        squares += sum[i] * sum[i];
        EXPECT_NEAR(m.x.row(r)[i], sum[i], 1e-6 * std::abs(sum[i]) + 1e-7) << on.name;
        EXPECT_EQ(m.y.row(r)[i], 0.0) << on.name;
      }
      for (int i = 0; i < kHidden; ++i) {
        const double expected = w[i] * sum[i] / std::sqrt(squares / kHidden + 1e-6);
        EXPECT_NEAR(to_float(m.h.row(r)[i]), expected, std::abs(expected) / 250) << on.name;
      }
      for (int i = kHidden; i < m.h.ld; ++i) EXPECT_EQ(m.h.row(r)[i], 0) << on.name;
    }
  }
}

TEST(Device, TheLastNormTakesTheRowsWhoseLogitsAreWanted) {
  const std::vector<float> w = normal(kHidden, 3);
  for (const OnDevice& on : devices()) {
    Memory all = Memory::of(*on.device), some = Memory::of(*on.device);
    fill(*on.device, all);
    fill(*on.device, some);
    Batch batch;
    batch.positions.assign(kRows, 0);
    batch.logit_rows = {1, 4};
    on.device->begin(batch);
    on.device->add_norm(all.x, all.y, w.data(), 1e-6f, all.h);
    on.device->last_norm(some.x, some.y, w.data(), 1e-6f, some.h);
    on.device->wait();

    for (int i = 0; i < 2; ++i)
      EXPECT_EQ(0, std::memcmp(some.h.row(i), all.h.row(batch.logit_rows[i]), kHidden * sizeof(bf16))) << on.name;
  }
}

// Float32 sums of n products are within n 2^-24 of the sum of magnitudes.
TEST(Device, MultipliesByEachMatrix) {
  const Packed a(48, kHidden, 7), b(100, kHidden, 8);
  const std::vector<float> w(kHidden, 1.0f);
  for (const OnDevice& on : devices()) {
    Memory m = Memory::of(*on.device);
    fill(*on.device, m);
    on.device->norm(m.x, w.data(), 1e-6f, m.h, m.y);
    on.device->linear(m.h, {{a.matrix, m.out}, {b.matrix, m.second}});
    on.device->wait();

    for (int r = 0; r < kRows; ++r) {
      for (int o = 0; o < 48; ++o) EXPECT_NEAR(m.out.row(r)[o], a.product(m.h, r, o), 1e-4) << on.name;
      for (int o = 0; o < 100; ++o) EXPECT_NEAR(m.second.row(r)[o], b.product(m.h, r, o), 1e-4) << on.name;
    }
  }
}

// A random matrix of 8-bit integers with scales; only the inputs' rounding is left as an error.
struct PackedInt8 {
  std::unique_ptr<std::byte[], void (*)(std::byte*)> bytes{nullptr, nullptr};
  PackedMatrix matrix;

  PackedInt8(int n, int k, int group_tiles, unsigned seed)
      : matrix{.format = Format::AMXINT8, .n = n, .k = k, .group_tiles = group_tiles} {
    const std::vector<float> rows = normal(n * k, seed);
    bytes = {static_cast<std::byte*>(std::aligned_alloc(64, matrix.bytes())), [](std::byte* p) { std::free(p); }};
    for (int p = 0; p < matrix.panels(); ++p)
      AmxInt8Format::pack(&rows[static_cast<size_t>(p) * kPanel * k], k, std::min(kPanel, n - p * kPanel), matrix,
                          bytes.get() + p * matrix.panel_bytes());
    matrix.data = bytes.get();
  }
  double weight(int output, int input) const {
    const std::byte* panel = matrix.panel(output / kPanel);
    const int tile = input / kTileK, group = tile / matrix.group_tiles;
    const std::byte* scales = panel + matrix.scales_at() + group * info(matrix.format).scale_bytes;
    return static_cast<double>(AmxInt8Format::scale(scales, output % kPanel)) *
           AmxInt8Format::get(panel + tile * info(matrix.format).tile_bytes, output % kPanel, input % kTileK);
  }
  // An input is off by half a step, 1 / 254 of the largest of its group, and the sum by float32's rounding.
  void expect_near(double found, const Mat<bf16>& x, int row, int output, double factor) const {
    const int group = matrix.group_tiles * kTileK;
    double sum = 0, bound = 1e-4;
    for (int begin = 0; begin < matrix.k; begin += group) {
      double largest = 0, weights = 0;
      for (int i = begin; i < std::min(matrix.k, begin + group); ++i) {
        const double value = to_float(x.row(row)[i]), w = weight(output, i);
        sum += value * w;
        weights += std::abs(w);
        largest = std::max(largest, std::abs(value));
      }
      bound += weights * largest / 254;
    }
    EXPECT_NEAR(found, sum * factor, bound * std::abs(factor));
  }
};

TEST(Device, QuantisesTheInputsOfIntegerWeights) {
  const PackedInt8 a(48, kHidden, 4, 7), down(kHidden, kHidden, 1, 9);
  const Packed exact(100, kHidden, 8);
  const std::vector<float> w(kHidden, 1.0f);
  std::vector<float> first;
  for (const OnDevice& on : devices()) {
    SCOPED_TRACE(on.name);
    Memory m = Memory::of(*on.device);
    on.device->reserve({.rows = kRows, .int8_columns = kHidden});
    fill(*on.device, m);
    on.device->norm(m.x, w.data(), 1e-6f, m.h, m.y);
    on.device->linear(m.h, {{exact.matrix, m.second}, {a.matrix, m.out}});
    on.device->linear_sum(m.h, down.matrix, 32, nullptr, m.y);
    on.device->linear_sum(m.h, down.matrix, 32, nullptr, m.y);
    on.device->wait();

    std::vector<float> all;
    for (int r = 0; r < kRows; ++r) {
      for (int o = 0; o < 48; ++o) a.expect_near(m.out.row(r)[o], m.h, r, o, 1.0), all.push_back(m.out.row(r)[o]);
      for (int o = 0; o < 100; ++o) EXPECT_NEAR(m.second.row(r)[o], exact.product(m.h, r, o), 1e-4);
      for (int o = 0; o < kHidden; ++o) down.expect_near(m.y.row(r)[o], m.h, r, o, 2.0);
    }
    if (first.empty()) first = all;
    EXPECT_EQ(all, first);
  }
}

TEST(Device, AddsScaledProductsToSums) {
  const Packed a(kHidden, kHidden, 9);
  const std::vector<float> w(kHidden, 1.0f), scale = normal(kRows, 10);
  for (const OnDevice& on : devices()) {
    Memory m = Memory::of(*on.device);
    fill(*on.device, m);
    on.device->norm(m.x, w.data(), 1e-6f, m.h, m.y);
    on.device->linear_sum(m.h, a.matrix, 32, scale.data(), m.y);
    on.device->linear_sum(m.h, a.matrix, 32, nullptr, m.y);
    on.device->wait();

    for (int r = 0; r < kRows; ++r)
      for (int o = 0; o < kHidden; ++o)
        EXPECT_NEAR(m.y.row(r)[o], a.product(m.h, r, o) * (1.0 + scale[r]), 2e-4) << on.name;
  }
}

TEST(Device, GivesRowsToTheHostAndTakesTheirSums) {
  const std::vector<float> w(kHidden, 1.0f);
  const std::vector<int32_t> rows = {4, 0, 3};
  for (const OnDevice& on : devices()) {
    Memory m = Memory::of(*on.device);
    fill(*on.device, m);
    on.device->norm(m.x, w.data(), 1e-6f, m.h, m.y);
    std::vector<bf16> out(rows.size() * kHidden);
    std::vector<double> sums(out.size());
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = static_cast<double>(i);
    const WireSums came{.at = reinterpret_cast<const std::byte*>(sums.data()), .stride = kHidden};
    on.device->rows_out(m.h, rows, {.at = out.data(), .ld = kHidden, .rows = 3, .columns = kHidden});
    on.device->sums_in(came, rows, m.y);
    on.device->sums_in(came, rows, m.y);
    on.device->wait();

    for (size_t i = 0; i < rows.size(); ++i)
      for (int c = 0; c < kHidden; ++c) {
        EXPECT_EQ(out[i * kHidden + c], m.h.row(rows[i])[c]) << on.name;
        EXPECT_EQ(m.y.row(rows[i])[c], 2 * sums[i * kHidden + c]) << on.name;
      }
    EXPECT_EQ(m.y.row(1)[0], 0.0) << on.name;
  }
}

TEST(Device, RotaryAnglesArePositionTimesFrequency) {
  for (const OnDevice& on : devices()) {
    Batch batch;
    batch.positions = {0, 7, 200000};
    batch.frequencies = {1.0, 0.01, 1e-5};
    on.device->begin(batch);

    for (int r = 0; r < 3; ++r)
      for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(batch.cosines_of(r)[i], static_cast<float>(std::cos(batch.positions[r] * batch.frequencies[i])));
        EXPECT_EQ(batch.sines_of(r)[i], static_cast<float>(std::sin(batch.positions[r] * batch.frequencies[i])));
      }
  }
}

TEST(Layout, CountsWhatItPlaces) {
  Layout counted;
  Memory::lay_out(counted);
  std::vector<std::byte> memory(counted.bytes() + 64);
  auto* at = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<intptr_t>(memory.data()), 64));
  Layout placed(at);
  const Memory m = Memory::lay_out(placed);

  EXPECT_EQ(placed.bytes(), counted.bytes());
  EXPECT_EQ(reinterpret_cast<std::byte*>(m.x.at), at);
  EXPECT_LE(reinterpret_cast<std::byte*>(m.y.row(kRows)), at + placed.bytes());
  EXPECT_EQ(m.second.ld, 112);
  EXPECT_EQ(m.second.part(2, 3).at, m.second.row(2));
}

}  // namespace
}  // namespace kt
