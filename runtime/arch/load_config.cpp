#include "runtime/arch/load_config.h"

#include <algorithm>
#include <fstream>

#include "runtime/arch/read_config.h"
#include "runtime/base/error.h"

namespace kt {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

json read_json(const fs::path& folder, const char* name) {
  std::ifstream file(folder / name, std::ios::binary);
  if (!file) fail(kExitModel, "{}: cannot be read", name);
  const auto refuse_bombs = [&](int depth, json::parse_event_t, json&) {
    if (depth > 32) fail(kExitModel, "{}: nested deeper than 32 levels", name);
    return true;
  };
  try {
    return json::parse(file, refuse_bombs);
  } catch (const json::exception& e) {
    fail(kExitModel, "{}: not valid JSON: {}", name, std::string_view(e.what()).substr(0, 300));
  }
}

SamplingDefaults read_sampling(const ConfigReader& generation) {
  const auto number = [&](const char* key, double low, double high) -> std::optional<float> {
    if (!generation.has(key)) return std::nullopt;
    return static_cast<float>(generation.number(key, low, high));
  };
  SamplingDefaults defaults{.temperature = number("temperature", 0.0, 100.0),
                            .top_p = number("top_p", 0.0, 1.0),
                            .min_p = number("min_p", 0.0, 1.0),
                            .repetition_penalty = number("repetition_penalty", 0.01, 100.0),
                            .top_k = std::nullopt};
  if (generation.has("top_k")) {
    const int top_k = generation.integer("top_k", -1, INT32_MAX);
    defaults.top_k = top_k == 0 ? -1 : top_k;  // transformers writes 0 for all
  }
  return defaults;
}

LoadedConfig load(const fs::path& folder) {
  json raw = read_json(folder, "config.json");
  const Arch& arch = find_arch(raw);
  LoadedConfig loaded{.arch = arch, .config = parse_model(raw), .sampling = {}, .raw = std::move(raw)};
  loaded.config.architecture = arch.hf_name;
  if (!is_file(folder / "generation_config.json")) return loaded;

  const json file = read_json(folder, "generation_config.json");
  const ConfigReader generation(file, "generation_config.json: ");
  loaded.sampling = read_sampling(generation);
  std::vector<int32_t>& eos = loaded.config.eos;
  for (const int id : generation.integers("eos_token_id", 0, INT32_MAX)) {
    if (std::find(eos.begin(), eos.end(), id) == eos.end()) eos.push_back(id);
  }
  return loaded;
}

}  // namespace

LoadedConfig load_model_config(const fs::path& folder) {
  if (!is_file(folder / "config.json")) {
    std::error_code ignored;
    fail(kExitModel, "{}: {}; --model takes the folder of a checkpoint", folder.string(),
         fs::is_directory(folder, ignored) ? "config.json is missing" : "there is no such folder");
  }
  try {
    return load(folder);
  } catch (const Error& e) {
    throw Error(e.exit_code(), (folder / e.what()).string());  // the messages begin with the file's name
  }
}

}  // namespace kt
