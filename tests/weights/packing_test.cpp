// Matrices as checkpoints store them: every type is packed as it should be or refused by name, and FP8's scales stay
// with their weights wherever slices and blocks end.

#include "runtime/weights/packing.h"
#include "runtime/weights/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/format/bf16.h"
#include "kernels/format/fp8.h"
#include "kernels/ops.h"
#include "runtime/weights/floats.h"
#include "tests/checkpoint/safetensors_bytes.h"
#include "tests/refusal_of.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// A folder of one file, written tensor by tensor.
class StoredFile {
 public:
  template <class T>
  void add(const std::string& name, const char* type, std::vector<int64_t> shape, const std::vector<T>& values) {
    const size_t bytes = values.size() * sizeof(T);
    header_[name] = {{"dtype", type}, {"shape", shape}, {"data_offsets", {data_.size(), data_.size() + bytes}}};
    data_.append(reinterpret_cast<const char*>(values.data()), bytes);
  }
  std::unique_ptr<Checkpoint> open() const {
    folder_.write("model.safetensors", safetensors(header_.dump(), data_));
    return open_checkpoint(folder_.path());
  }

 private:
  TempFolder folder_;
  nlohmann::ordered_json header_;
  std::string data_;
};

constexpr int kRows = 21, kColumns = 50;  // whole panels and tiles, and not

RowRun whole(int64_t rows = kRows, int64_t columns = kColumns) { return {"w.weight", {rows, columns}, 0, rows}; }

std::string packed_refusal(const StoredFile& stored, RowRun run = whole()) {
  const auto checkpoint = stored.open();
  PackedMatrix m;
  Packing packing(*checkpoint, {});
  return refusal_of([&] {
    packing.add(&m, {run}, 0, static_cast<int>(run.shape.back()));
    packing.check();
  });
}

uint16_t half_bits(float x) {  // of a number that has them
  const auto u = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((u >> 16 & 0x8000u) | ((u >> 23 & 255u) - 112u) << 10 | (u >> 13 & 0x3ffu));
}

// Values that F16 and F32 have and BF16 rounds.
std::vector<float> values() {
  std::vector<float> v(kRows * kColumns);
  for (size_t i = 0; i < v.size(); ++i) v[i] = (1.0f + static_cast<float>(i % 997) / 1024) * (i % 2 ? -1.0f : 1.0f);
  return v;
}

TEST(Packing, TakesEveryTypeOfFloatAndRoundsItOnce) {
  ThreadPool pool(2);
  const std::unique_ptr<Device> device = make_cpu_device(choose_ops(), pool, -1);
  std::vector<uint16_t> f16, bf16s;
  for (const float x : values()) f16.push_back(half_bits(x)), bf16s.push_back(to_bf16(x));
  std::map<std::string, StoredFile> every;
  every["F32"].add("w.weight", "F32", {kRows, kColumns}, values());
  every["F16"].add("w.weight", "F16", {kRows, kColumns}, f16);
  every["BF16"].add("w.weight", "BF16", {kRows, kColumns}, bf16s);

  for (const auto& [type, stored] : every) {
    const auto checkpoint = stored.open();
    PackedMatrix m;
    Packing packing(*checkpoint, {});
    packing.add(&m, {whole()}, 0, kColumns);
    const Buffer buffer = packing.load(*device, "test");
    const std::vector<float> read = read_floats(*checkpoint, "w.weight", {kRows, kColumns});

    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kColumns; ++c) {
        const float x = values()[static_cast<size_t>(r * kColumns + c)];
        const std::byte* tile = m.panel(r / kPanel) + static_cast<size_t>(c / kTileK) * info(m.format).tile_bytes;
        ASSERT_EQ(Bf16Format::weight(tile, r % kPanel, c % kTileK), to_float(to_bf16(x))) << type << r << ", " << c;
        ASSERT_EQ(read[static_cast<size_t>(r * kColumns + c)], type == "BF16" ? to_float(to_bf16(x)) : x) << type;
      }
  }
}

// Integers: half a step of the scale, which has bf16's precision; and how far the largest weight may be from the end of
// the smallest int4 scale's seventh step.
double largest_error(Format method, double w) {
  if (method == Format::FP8) return std::max(std::fabs(w) / 16, 2.0 / 448 / 1024) * (1 + 1e-6);
  const bool int8 = method == Format::AMXINT8;
  return std::max(1.0 / (int8 ? 127 : 7) * (1 + 1.0 / 256), int8 ? 0.0 : 2.0 * (1 - 0.6875 * 7 / 8));
}

TEST(Packing, QuantisesWhatItIsToldToAndKeepsTheSmallAndDecisive) {
  constexpr const char* kNames[] = {"self_attn.q_proj.weight", "lm_head.weight", "mlp.gate.weight",
                                    "linear_attn.in_proj_ba.weight"};
  ThreadPool pool(2);
  const std::unique_ptr<Device> device = make_cpu_device(choose_ops(), pool, -1);
  StoredFile stored;
  for (const char* name : kNames) stored.add(name, "F32", {kRows, kColumns}, values());
  const auto checkpoint = stored.open();
  for (const Format method : {Format::AMXINT8, Format::AMXINT4, Format::FP8}) {
    std::map<std::string, PackedMatrix> matrices;
    Packing packing(*checkpoint, {}, method);
    for (const char* name : kNames) packing.add(&matrices[name], {{name, {kRows, kColumns}, 0, kRows}}, 0, kColumns);
    const Buffer buffer = packing.load(*device, "test");

    EXPECT_EQ(matrices["lm_head.weight"].format, method == Format::AMXINT4 ? Format::AMXINT8 : method);
    EXPECT_EQ(matrices["mlp.gate.weight"].format, Format::BF16);
    EXPECT_EQ(matrices["linear_attn.in_proj_ba.weight"].format, Format::BF16);
    const PackedMatrix& m = matrices["self_attn.q_proj.weight"];
    ASSERT_EQ(m.format, method);
    std::vector<float> row(kColumns);
    for (int r = 0; r < kRows; ++r) {
      dequantize_row(m, r, row.data());
      for (int c = 0; c < kColumns; ++c) {
        const double w = values()[static_cast<size_t>(r * kColumns + c)];
        ASSERT_NEAR(row[c], w, largest_error(method, w)) << r << ", " << c;
      }
    }
  }
}

TEST(Packing, RefusesEveryOtherTypeByName) {
  const std::vector<uint8_t> bytes(kRows * kColumns * 8);
  for (const auto& [type, size] : std::map<const char*, size_t>{{"F64", 8},
                                                                {"F8_E4M3", 1},
                                                                {"F8_E5M2", 1},
                                                                {"I64", 8},
                                                                {"I32", 4},
                                                                {"I16", 2},
                                                                {"I8", 1},
                                                                {"U64", 8},
                                                                {"U32", 4},
                                                                {"U16", 2},
                                                                {"U8", 1},
                                                                {"BOOL", 1}}) {
    StoredFile stored;
    stored.add("w.weight", type, {kRows, kColumns},
               std::vector<uint8_t>(bytes.begin(), bytes.begin() + static_cast<int64_t>(kRows * kColumns * size)));
    const auto names_it = AllOf(HasSubstr("w.weight: expected F32, BF16 or F16, found"), HasSubstr(type));
    EXPECT_THAT(packed_refusal(stored), names_it);
    EXPECT_THAT(refusal_of([&] { read_floats(*stored.open(), "w.weight", {kRows, kColumns}); }), names_it);
  }
}

TEST(Packing, RefusesScalesOfAWrongShapeOrType) {
  const std::vector<uint8_t> weights(256 * 256);
  StoredFile short_of_columns, of_integers, good;
  short_of_columns.add("w.weight", "F8_E4M3", {256, 256}, weights);
  short_of_columns.add("w.weight_scale_inv", "F32", {2, 1}, std::vector<float>(2));
  EXPECT_THAT(packed_refusal(short_of_columns, whole(256, 256)), HasSubstr("expected shape (2, 2), found (2, 1)"));
  of_integers.add("w.weight", "F8_E4M3", {256, 256}, weights);
  of_integers.add("w.weight_scale_inv", "I32", {2, 2}, std::vector<float>(4));
  EXPECT_THAT(packed_refusal(of_integers, whole(256, 256)), HasSubstr("w.weight_scale_inv: expected F32, BF16 or F16"));
  good.add("w.weight", "F8_E4M3", {256, 256}, weights);
  good.add("w.weight_scale_inv", "BF16", {2, 2}, std::vector<bf16>(4));
  EXPECT_EQ(packed_refusal(good, whole(256, 256)), "accepted");

  StoredFile int4;
  int4.add("w.weight_packed", "I32", {16, 5}, std::vector<uint32_t>(80));
  int4.add("w.weight_scale", "BF16", {16, 2}, std::vector<bf16>(32));
  EXPECT_THAT(packed_refusal(int4, whole(16, 40)), HasSubstr("a multiple of 32 columns, found 40"));
}

// Random E4M3 weights, in a stack of `depth` matrices, with a scale of its own for each block.
struct Fp8Stack {
  int depth, rows, columns;
  QuantSpec quant;
  std::vector<uint8_t> weights;
  std::vector<float> scales;
  StoredFile stored;

  Fp8Stack(int depth, int rows, int columns, int block_rows, int block_columns)
      : depth(depth),
        rows(rows),
        columns(columns),
        quant{.stored = Stored::fp8_block, .block_rows = block_rows, .block_columns = block_columns} {
    std::mt19937 random(3);
    for (int i = 0; i < depth * rows * columns; ++i) weights.push_back(static_cast<uint8_t>(random() % 120));
    const int64_t across = ceil_div(columns, block_columns), down = ceil_div(rows, block_rows);
    for (int64_t i = 0; i < depth * down * across; ++i)
      scales.push_back(std::ldexp(1.0f, static_cast<int>(i % 11) - 5));
    const auto shape = [&](int64_t r, int64_t c) {
      return depth == 1 ? std::vector<int64_t>{r, c} : std::vector<int64_t>{depth, r, c};
    };
    stored.add("w.weight", "F8_E4M3", shape(rows, columns), weights);
    stored.add("w.weight_scale_inv", "F32", shape(down, across), scales);
  }

  std::vector<int64_t> shape() const {
    return depth == 1 ? std::vector<int64_t>{rows, columns} : std::vector<int64_t>{depth, rows, columns};
  }
  double at(int row, int column) const {
    const auto across = ceil_div(columns, quant.block_columns), down = ceil_div(rows, quant.block_rows);
    const auto scale = (row / rows * down + row % rows / quant.block_rows) * across + column / quant.block_columns;
    return static_cast<double>(scales[static_cast<size_t>(scale)]) *
           Fp8Format::value(weights[static_cast<size_t>(row) * columns + column]);
  }
};

// y = x W^T over columns [first, first + count) in slices, every table, against float64. A chain of k products is off
// by less than k 2^-24 of the sum of their sizes.
void expect_products(const Fp8Stack& stack, int first_row, int count_rows, int first, int count, int slice) {
  ThreadPool pool(2);
  const std::unique_ptr<Device> device = make_cpu_device(choose_ops(), pool, -1);
  const auto checkpoint = stack.stored.open();
  PackedMatrix m;
  Packing packing(*checkpoint, stack.quant);
  packing.add(&m, {{"w.weight", stack.shape(), first_row, count_rows}}, first, count, slice);
  const Buffer buffer = packing.load(*device, "test");

  const int64_t stride = round_up(count, kTileK), ldo = round_up(count_rows, kPanel);
  std::vector<bf16> x(static_cast<size_t>(stride));
  for (int i = 0; i < count; ++i) x[static_cast<size_t>(i)] = to_bf16(static_cast<float>(i * 7 % 13 - 6));
  for (const Ops* ops : available_ops()) {
    std::vector<double> y(static_cast<size_t>(ldo));
    ops->matmul_add({.data = x.data(), .stride = stride, .count = 1}, m, slice, 0, m.panels(), nullptr, y.data(), ldo,
                    nullptr);
    for (int r = 0; r < count_rows; ++r) {
      double sum = 0.0, size = 0.0;
      for (int i = 0; i < count; ++i) {
        const double product = to_float(x[static_cast<size_t>(i)]) * stack.at(first_row + r, first + i);
        sum += product;
        size += std::fabs(product);
      }
      ASSERT_NEAR(y[static_cast<size_t>(r)], sum, count * 0x1p-24 * size + 1e-8)
          << ops->name << ": row " << r << ", columns " << first << " + " << count << " in slices of " << slice;
    }
  }
}

TEST(Packing, Fp8SlicesMayEndAnywhereInABlock) {
  for (const auto& [block_rows, block_columns] : {std::pair(128, 128), {48, 160}, {16, 96}, {64, 32}}) {
    const Fp8Stack stack(1, 200, 960, block_rows, block_columns);
    for (const int slice : {32, 64, 96, 128, 160, 192, 480})
      for (const int parts : {1, 2, 3}) {
        const int slices = 960 / slice;
        for (int part = 0; part < parts; ++part) {
          const int begin = slices * part / parts * slice, end = slices * (part + 1) / parts * slice;
          if (begin < end) expect_products(stack, 0, 200, begin, end - begin, slice);
        }
      }
  }
}

TEST(Packing, Fp8MatricesOfAStackHaveScalesOfTheirOwn) {
  const Fp8Stack stack(3, 72, 200, 128, 128);

  for (int e = 0; e < 3; ++e) expect_products(stack, e * 72, 72, 0, 200, 32);
  expect_products(stack, 72 + 48, 24, 64, 136, 32);
}

TEST(Packing, Fp8PanelsThatLieInTwoBlocksAreRefused) {
  const Fp8Stack stack(1, 64, 64, 16, 32);
  const auto checkpoint = stack.stored.open();
  Packing packing(*checkpoint, stack.quant);
  PackedMatrix m;

  EXPECT_THAT(refusal_of([&] {
                packing.add(&m, {{"w.weight", {64, 64}, 8, 16}}, 0, 64);
              }),
              HasSubstr("rows 8 to 24 are not whole panels of 16"));
  EXPECT_THAT(refusal_of([&] {
                packing.add(&m, {whole(64, 64), whole(64, 64)}, 16, 32, 32);
              }),
              HasSubstr("columns from 16 in slices of 32"));
}

}  // namespace
}  // namespace kt
