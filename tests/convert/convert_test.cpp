#include "runtime/convert/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/format/fp8.h"
#include "runtime/base/error.h"
#include "runtime/model/experts/bank.h"
#include "runtime/weights/expert_tensors.h"
#include "runtime/weights/quantize.h"
#include "tests/checkpoint/safetensors_bytes.h"
#include "tests/refusal_of.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using testing::HasSubstr;

constexpr int kHidden = 96, kInter = 160, kExperts = 4;

// A model folder with the experts of layers 1 and 2 (and those of a layer 3 that predicts further tokens), stored one
// way or another.
class Model {
 public:
  enum class Kind { bf16, fp16, fp8, int4, fused };
  explicit Model(Kind kind, uint32_t seed = 1) : random_(seed) {
    config.architecture = "Test";
    config.hidden = kHidden;
    config.layers = {{.ffn = Ffn::dense}, {.ffn = Ffn::moe}, {.ffn = Ffn::moe}};
    config.moe = {.experts = kExperts, .top_k = 2, .inter = kInter};
    config.quant = {.block_rows = 32, .block_columns = 32};
    for (int layer = 1; layer <= 3; ++layer) add_layer(kind, fmt::format("model.layers.{}.mlp.experts.", layer));
    temp_.write("model.safetensors", safetensors(header_.dump(), data_));
    checkpoint = open_checkpoint(temp_.path());
  }

  ConversionInput input() const { return {*checkpoint, arch, config, "{}"}; }

  ModelConfig config;
  Arch arch{.hf_name = "Test", .prefix = "model."};
  std::unique_ptr<Checkpoint> checkpoint;

 private:
  template <class T>
  void add(const std::string& name, const char* type, std::vector<int64_t> shape, const std::vector<T>& values) {
    header_[name] = {
        {"dtype", type}, {"shape", shape}, {"data_offsets", {data_.size(), data_.size() + values.size() * sizeof(T)}}};
    data_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  template <class T, class Make>
  std::vector<T> make(int64_t n, const Make& one) {
    std::vector<T> values(static_cast<size_t>(n));
    for (T& v : values) v = one();
    return values;
  }
  void add_matrix(Kind kind, const std::string& name, int64_t rows, int64_t columns) {
    std::normal_distribution<float> normal(0.0f, 0.02f);
    const auto weight = [&] { return normal(random_); };
    const auto scale = [&] { return 0.001f * (1.0f + static_cast<float>(random_() % 8)); };
    switch (kind) {
      case Kind::bf16:
      case Kind::fused:
        return add(name, "BF16", {rows, columns}, make<bf16>(rows * columns, [&] { return to_bf16(weight()); }));
      case Kind::fp16:
        return add(name, "F16", {rows, columns},
                   make<_Float16>(rows * columns, [&] { return static_cast<_Float16>(weight()); }));
      case Kind::fp8:
        add(name, "F8_E4M3", {rows, columns}, make<uint8_t>(rows * columns, [&] { return random_() & 0xb7; }));
        return add(name + "_scale_inv", "F32", {rows / 32, columns / 32}, make<float>(rows * columns / 1024, scale));
      case Kind::int4:
        add(name + "_packed", "I32", {rows, columns / 8},
            make<uint32_t>(rows * columns / 8, [&] { return random_(); }));
        return add(name + "_scale", "BF16", {rows, columns / 32},
                   make<bf16>(rows * columns / 32, [&] { return to_bf16(scale()); }));
    }
  }
  void add_layer(Kind kind, const std::string& at) {
    if (kind == Kind::fused) {
      arch.experts = ExpertLayout::fused_gate_up;
      std::normal_distribution<float> normal(0.0f, 0.02f);
      const auto weight = [&] { return to_bf16(normal(random_)); };
      add(at + "gate_up_proj", "BF16", {kExperts, 2 * kInter, kHidden},
          make<bf16>(kExperts * 2 * kInter * kHidden, weight));
      return add(at + "down_proj", "BF16", {kExperts, kHidden, kInter},
                 make<bf16>(kExperts * kHidden * kInter, weight));
    }
    for (int e = 0; e < kExperts; ++e) {
      add_matrix(kind, fmt::format("{}{}.gate_proj.weight", at, e), kInter, kHidden);
      add_matrix(kind, fmt::format("{}{}.up_proj.weight", at, e), kInter, kHidden);
      add_matrix(kind, fmt::format("{}{}.down_proj.weight", at, e), kHidden, kInter);
    }
  }

  TempFolder temp_;
  std::mt19937 random_;
  nlohmann::json header_ = nlohmann::json::object();
  std::string data_;
};

constexpr std::pair<Model::Kind, const char*> kKinds[] = {{Model::Kind::bf16, "bf16"},
                                                          {Model::Kind::fp16, "fp16"},
                                                          {Model::Kind::fp8, "fp8"},
                                                          {Model::Kind::int4, "int4"},
                                                          {Model::Kind::fused, "bf16"}};

std::string bytes_of(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::stringstream all;
  for (const auto& file : files) all << file.filename().string() << '\n' << std::ifstream(file).rdbuf();
  return all.str();
}
ino_t inode(const std::filesystem::path& file) {
  struct stat s {};
  EXPECT_EQ(::stat(file.c_str(), &s), 0) << file;
  return s.st_ino;
}

struct Converting : testing::Test {
  TempFolder out;
  ThreadPool pool{2};
  std::unique_ptr<Device> device = make_cpu_device(choose_ops(), pool, -1);

  PackedManifest convert(const Model& model, const char* type, Format format = Format::AMXINT4) {
    convert_experts(model.input(), plan_conversion(model.input(), type, format), out.path(), pool);
    return *read_manifest(out.path());
  }
};

TEST_F(Converting, KeepsEveryStoredFormatWithinItsError) {
  for (const auto& [kind, type] : kKinds)
    for (Format format : {Format::AMXINT4, Format::AMXINT8}) {
      const Model model(kind);
      const TempFolder folder;
      convert_experts(model.input(), plan_conversion(model.input(), type, format), folder.path(), pool);
      const PackedManifest manifest = *read_manifest(folder.path());

      EXPECT_EQ(manifest.layers, (std::vector{1, 2})) << "no layer beyond the model's last";
      check_packed(folder.path(), manifest, pool);
      for (int layer : manifest.layers) {
        const LayerDeviation d = compare_layer(model.input(), folder.path(), manifest, layer, *device);
        // Relative rounding errors of about 2 / (7 sqrt 3) and 2 / (127 sqrt 3) of half the spread at most; three
        // factors, each with an error of its own, of an output, whose inputs are quantised as well.
        const double limit = format == Format::AMXINT4 ? 0.14 : 0.009;
        EXPECT_LT(d.weights, limit) << type;
        EXPECT_GT(d.weights, limit / 10) << type;
        EXPECT_LT(d.output, 3 * limit) << type;
      }
    }
}

// FP8 and INT4 values as the formats define them, by hand.
TEST_F(Converting, ReadsTheStoredValues) {
  const Model fp8(Model::Kind::fp8), int4(Model::Kind::int4);
  std::vector<std::byte> scratch;
  std::vector<float> row(kHidden);

  const RowRun up = expert_rows(*fp8.checkpoint, fp8.arch, fp8.config, 2, 3).up;
  FloatRows(*fp8.checkpoint, fp8.config.quant, up).read(70, 1, {0, kHidden}, row.data());
  const auto& codes = *fp8.checkpoint->find(up.name);
  const auto& scales = *fp8.checkpoint->find(up.name + "_scale_inv");
  for (int c = 0; c < kHidden; ++c) {
    float scale;
    std::memcpy(&scale, scales.bytes.data() + (70 / 32 * (kHidden / 32) + c / 32) * 4, 4);
    EXPECT_EQ(row[c], Fp8Format::value(static_cast<uint8_t>(codes.bytes[70 * kHidden + c])) * scale) << c;
  }

  const RowRun gate = expert_rows(*int4.checkpoint, int4.arch, int4.config, 1, 0).gate;
  FloatRows(*int4.checkpoint, int4.config.quant, gate).read(7, 1, {0, kHidden}, row.data());
  const auto& words = *int4.checkpoint->find(gate.name + "_packed");
  const auto& factors = *int4.checkpoint->find(gate.name + "_scale");
  for (int c = 0; c < kHidden; ++c) {
    uint32_t word;
    bf16 scale;
    std::memcpy(&word, words.bytes.data() + (7 * kHidden / 8 + c / 8) * 4, 4);
    std::memcpy(&scale, factors.bytes.data() + (7 * kHidden / 32 + c / 32) * 2, 2);
    EXPECT_EQ(row[c], (static_cast<float>(word >> (4 * (c % 8)) & 15) - 8) * to_float(scale)) << c;
  }
}

TEST_F(Converting, GivesEveryRankTheBytesThatItWouldQuantiseItself) {
  const Model model(Model::Kind::bf16);
  const PackedManifest manifest = convert(model, "bf16");
  for (int ranks = 1; ranks <= 6; ++ranks)
    for (int rank = 0; rank < ranks; ++rank) {
      const Range columns = inter_part(kInter, rank, ranks);
      if (!columns.size()) continue;
      const ExpertBank packed =
          load_experts({.format = manifest.format, .packed_folder = out.path(), .packed = &manifest}, model.config,
                       columns, *device);
      const ExpertBank quantised = load_experts({.format = manifest.format,
                                                 .quant = model.config.quant,
                                                 .checkpoint = model.checkpoint.get(),
                                                 .arch = &model.arch},
                                                model.config, columns, *device);

      ASSERT_EQ(packed.storage.size(), bank_bytes(model.config, manifest.format, columns));
      EXPECT_EQ(std::memcmp(packed.storage.bytes(), quantised.storage.bytes(), packed.storage.size()), 0)
          << columns.begin << "-" << columns.end;
    }
}

TEST_F(Converting, GoesOnWhereItWasStoppedAndEndsWithTheSameBytes) {
  const Model model(Model::Kind::fp8);
  PackedManifest manifest = convert(model, "fp8");
  const std::string whole = bytes_of(out.path());
  const auto one = layer_file(out.path(), 1), two = layer_file(out.path(), 2);
  const ino_t kept = inode(one);

  manifest.files.erase(2);  // stopped in layer 2
  write_manifest(out.path(), manifest);
  std::filesystem::resize_file(two, 100);
  std::filesystem::rename(two, two.string() + ".part");
  EXPECT_FALSE(read_manifest(out.path())->complete());
  convert(model, "fp8");

  EXPECT_EQ(bytes_of(out.path()), whole);
  EXPECT_EQ(inode(one), kept);
  std::filesystem::resize_file(one, 100);
  convert(model, "fp8");
  EXPECT_EQ(bytes_of(out.path()), whole);
}

TEST_F(Converting, RefusesAFolderOfAnotherConversion) {
  const Model model(Model::Kind::bf16), other(Model::Kind::bf16, 2);
  convert(model, "bf16");

  EXPECT_THAT(refusal_of([&] { convert(model, "bf16", Format::AMXINT8); }, kExitUsage),
              HasSubstr("holds AMXINT4 experts of another checkpoint or method"));
  EXPECT_THAT(refusal_of([&] { convert(other, "bf16"); }, kExitUsage), HasSubstr("fingerprint"));
}

TEST_F(Converting, RefusesTheWrongInputTypeByTensor) {
  for (const auto& [kind, type] : kKinds)
    for (const char* asked : {"bf16", "fp16", "fp8", "int4"}) {
      if (std::string_view(asked) == type) continue;
      const Model model(kind);
      const std::string error = refusal_of([&] { plan_conversion(model.input(), asked, Format::AMXINT4); }, kExitUsage);
      EXPECT_THAT(error, HasSubstr(fmt::format("stored as {}; use --input-type {}", type, type)));
      EXPECT_THAT(error, HasSubstr("model.layers.1.mlp.experts."));
    }
}

TEST_F(Converting, RefusesAnotherFusedLayoutThanTheArchitectures) {
  Model model(Model::Kind::fused);
  model.config.hidden = 2 * kInter;  // as if the stack were (experts, hidden, 2 inter)
  model.config.moe.inter = kHidden / 2;

  EXPECT_THAT(refusal_of([&] { convert(model, "bf16"); }, kExitModel), HasSubstr("expected shape (4, 96, 320)"));
}

TEST_F(Converting, SeesThatAFolderWasMadeFromSomethingElse) {
  const Model model(Model::Kind::bf16), other(Model::Kind::bf16, 2);
  for (Format format : {Format::AMXINT4, Format::AMXINT8}) {
    const TempFolder folder;
    convert_experts(model.input(), plan_conversion(model.input(), "bf16", format), folder.path(), pool);
    const PackedManifest manifest = *read_manifest(folder.path());

    EXPECT_THAT(refusal_of([&] { compare_layer(other.input(), folder.path(), manifest, 1, *device); }, kExitModel),
                HasSubstr("was it converted from this checkpoint?"));
  }
}

TEST_F(Converting, TakesZerosAndTinyWeightsAndRefusesNaN) {
  const auto folder_with = [](float value) {
    auto temp = std::make_unique<TempFolder>();
    std::string data(32 * 32 * 2, '\0');
    const bf16 bits = to_bf16(value);
    std::memcpy(&data[2 * 33], &bits, 2);
    temp->write("model.safetensors",
                safetensors(R"({"w": {"dtype": "BF16", "shape": [32, 32], "data_offsets": [0, 2048]}})", data));
    return temp;
  };
  for (const float value : {0.0f, 1e-38f, 1e-20f}) {
    const auto temp = folder_with(value);
    const auto checkpoint = open_checkpoint(temp->path());
    const FloatRows rows(*checkpoint, {}, {"w", {32, 32}, 0, 32});
    const PackedShape shape = packed_shape(Format::AMXINT4, 32, 32, 32);
    std::vector<std::byte> packed(shape.bytes());
    std::vector<float> row(32);
    quantize_expert(rows, rows, rows, {0, 32}, shape, packed.data());
    PackedMatrix gate_up = shape.gate_up;
    gate_up.data = packed.data();
    dequantize_row(gate_up, 1, row.data());

    EXPECT_NEAR(row[1], value == 1e-38f ? 0.0f : value, 0.01f * value);
    EXPECT_EQ(row[2], 0.0f);
  }
  for (const float value : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    const auto temp = folder_with(value);
    const auto checkpoint = open_checkpoint(temp->path());
    std::vector<float> row(32);
    EXPECT_THAT(refusal_of(
                    [&] {
                      FloatRows(*checkpoint, {}, {"w", {32, 32}, 0, 32}).read(1, 1, {0, 32}, row.data());
                    },
                    kExitModel),
                HasSubstr("w: row 1 has a value that is infinite or not a number"));
  }
}

}  // namespace
}  // namespace kt
