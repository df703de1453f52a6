#include "runtime/arch/quantization.h"

#include <fmt/format.h>

namespace kt {
namespace {

QuantSpec read_fp8(const ConfigReader& json) {
  const std::string fmt_name = json.text_or("fmt", "e4m3");
  if (fmt_name != "e4m3") json.refuse("fmt", fmt::format("\"{}\" is not supported, only e4m3 is", fmt_name));
  const std::vector<int> block = json.integers("weight_block_size", 1, 1 << 16);
  if (block.size() != 2)
    json.refuse("weight_block_size", "expected [rows, columns]: FP8 without blocks is not supported");
  if (block[0] % 16 || block[1] % 32)
    json.refuse("weight_block_size",
                fmt::format("expected multiples of 16 rows and 32 columns, found [{}, {}]", block[0], block[1]));
  return {.stored = Stored::fp8_block, .block_rows = block[0], .block_columns = block[1]};
}

QuantSpec read_compressed_tensors(const ConfigReader& json) {
  const std::string format = json.text_or("format", "");
  if (format != "pack-quantized")
    json.refuse("format", fmt::format("\"{}\" is not supported, only pack-quantized is", format));
  const ConfigReader weights = json.object("config_groups").object("group_0").object("weights");
  const int bits = weights.integer("num_bits", 1, 64), group = weights.integer("group_size", 1, 1 << 16);
  if (bits != 4 || group != 32 || !weights.boolean_or("symmetric", true) || weights.text_or("type", "int") != "int")
    weights.refuse(
        "num_bits",
        fmt::format("{} bits in groups of {} are not supported, only symmetric 4-bit integers in groups of 32", bits,
                    group));
  return {.stored = Stored::int4_group};
}

}  // namespace

QuantSpec read_quantization(const ConfigReader& config) {
  if (config.has("compression_config")) config.refuse("compression_config", "only quantization_config is supported");
  if (!config.has("quantization_config")) return {};
  const ConfigReader json = config.object("quantization_config");
  const std::string method = json.text_or("quant_method", "");
  if (method == "fp8") return read_fp8(json);
  if (method == "compressed-tensors") return read_compressed_tensors(json);
  json.refuse("quant_method", fmt::format("\"{}\" is not supported, only fp8 and compressed-tensors are", method));
}

}  // namespace kt
