#include <array>

#include "runtime/arch/check_model.h"
#include "runtime/arch/families.h"
#include "runtime/arch/read_config.h"
#include "runtime/base/error.h"

namespace kt {

std::span<const Arch> all_archs() {
  static const std::array archs = {kQwen2Moe,      kQwen3Moe,   kQwen3Next,   kQwen35Moe,
                                   kQwen35MoeText, kDeepseekV3, kDeepseekV32, kKimiK2};
  return archs;
}

const Arch& find_arch(const nlohmann::json& hf_config) {
  const ConfigReader json(hf_config, "config.json: ");
  const std::vector<std::string> names = json.texts("architectures");
  const std::string name = names.empty() ? "" : names.front();
  const std::string type = json.text_or("model_type", "");
  for (const Arch& arch : all_archs()) {
    if (arch.hf_name == name) return arch;
  }
  for (const Arch& arch : all_archs()) {
    if (arch.model_type == type) return arch;
  }
  std::string known;
  for (const Arch& arch : all_archs()) known += fmt::format("{}{}", known.empty() ? "" : ", ", arch.hf_name);
  fail(kExitModel, "config.json: architecture \"{}\" (model_type \"{}\") is not supported; supported are {}", name,
       type, known);
}

ModelConfig parse_model(const nlohmann::json& hf_config) {
  ModelConfig config = find_arch(hf_config).parse(hf_config);
  check_model(config);
  return config;
}

}  // namespace kt
