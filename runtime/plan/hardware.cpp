#include "runtime/plan/hardware.h"

#include <yaml-cpp/yaml.h>

#include <charconv>
#include <cmath>
#include <set>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/comm/machine.h"
#include "runtime/config/words.h"
#include "runtime/plan/memory_plan.h"

namespace kt {
namespace {

using Field = std::variant<std::string Hardware::*, int Hardware::*, double Hardware::*>;
struct Key {
  std::string_view name;
  Field field;
  double min = 0;
};
constexpr double kMost = 1e6;  // of any number: a mistake in the unit shows

constexpr Key kKeys[] = {
    {"name", &Hardware::name},
    {"nodes", &Hardware::nodes, 1},
    {"nodes-per-host", &Hardware::nodes_per_host, 1},
    {"numa-nodes", &Hardware::numa_nodes, 1},
    {"cores", &Hardware::cores, 1},
    {"memory-gb", &Hardware::memory_gb},
    {"memory-bandwidth-gbs", &Hardware::memory_bandwidth_gbs},
    {"cpu-tflops", &Hardware::cpu_tflops},
    {"disk-gbs", &Hardware::disk_gbs},
    {"gpus", &Hardware::gpus},
    {"gpu-memory-gb", &Hardware::gpu_memory_gb},
    {"gpu-bandwidth-gbs", &Hardware::gpu_bandwidth_gbs},
    {"gpu-tflops", &Hardware::gpu_tflops},
    {"gpu-link-gbs", &Hardware::gpu_link_gbs},
    {"network-gbs", &Hardware::network_gbs},
    {"network-latency-us", &Hardware::network_latency_us},
};

const Key& find_key(const std::string& name, const std::string& where) {
  std::vector<std::string_view> names;
  for (const Key& key : kKeys) {
    if (key.name == name) return key;
    names.push_back(key.name);
  }
  fail(kExitUsage, "{}: unknown key '{}'; the nearest one is '{}'", where, name, nearest(name, names));
}

template <class Number>
Number number(const Key& key, const std::string& text, const std::string& where) {
  Number n{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || end != text.data() + text.size() || !(n >= key.min && n <= kMost))
    fail(kExitUsage, "{}: {}: expected a {}number from {} to {}, found '{}'", where, key.name,
         std::is_same_v<Number, int> ? "whole " : "", key.min, kMost, text);
  return n;
}

void set(Hardware& hardware, const Key& key, const std::string& text, const std::string& where) {
  if (const auto* field = std::get_if<std::string Hardware::*>(&key.field))
    hardware.*(*field) = text;
  else if (const auto* whole = std::get_if<int Hardware::*>(&key.field))
    hardware.*(*whole) = number<int>(key, text, where);
  else
    hardware.*std::get<double Hardware::*>(key.field) = number<double>(key, text, where);
}

YAML::Node load(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(file, ignored))
    fail(kExitUsage, "--hardware {}: there is no such file; configs/hardware has examples", file.string());
  try {
    return YAML::LoadFile(file.string());
  } catch (const YAML::Exception& error) {
    fail(kExitUsage, "{}:{}: not valid YAML: {}", file.string(), error.mark.line + 1, error.msg);
  }
}

}  // namespace

Hardware read_hardware(const std::filesystem::path& file) {
  const YAML::Node document = load(file);
  if (!document.IsMap()) fail(kExitUsage, "{}: expected lines of the form 'key: value'", file.string());
  Hardware hardware{.name = file.stem().string()};
  std::set<std::string_view> seen;
  for (const auto& entry : document) {
    const std::string where = fmt::format("{}:{}", file.string(), entry.first.Mark().line + 1);
    if (!entry.first.IsScalar()) fail(kExitUsage, "{}: expected the name of a key", where);
    const Key& key = find_key(with_dashes(entry.first.Scalar()), where);
    if (!seen.insert(key.name).second) fail(kExitUsage, "{}: {}: expected once, found again", where, key.name);
    if (!entry.second.IsScalar()) fail(kExitUsage, "{}: {}: expected one value", where, key.name);
    set(hardware, key, entry.second.Scalar(), where);
  }
  if (!seen.contains("memory-gb")) fail(kExitUsage, "{}: memory-gb is required", file.string());
  if (hardware.gpus > 0 && hardware.gpu_memory_gb == 0)
    fail(kExitUsage, "{}: gpu-memory-gb is required, as there are gpus", file.string());
  return hardware;
}

Hardware this_machine() {
  const Machine machine = read_machine();
  return {.name = "this machine",
          .numa_nodes = machine.numa_nodes(),
          .cores = machine.cores(),
          .memory_gb = static_cast<double>(available_memory()) / 1e9};
}

}  // namespace kt
