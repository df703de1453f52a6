#include "runtime/config/run_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/config/options.h"
#include "runtime/config/sources.h"
#include "runtime/config/values.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

// One setting for each option, in order of first mention; what comes later wins.
std::vector<Setting> last_of_each(std::vector<Setting> settings) {
  std::vector<Setting> result;
  for (Setting& setting : settings) {
    const auto same = [&](const Setting& other) { return other.option == setting.option; };
    const auto earlier = std::find_if(result.begin(), result.end(), same);
    if (earlier == result.end())
      result.push_back(std::move(setting));
    else
      *earlier = std::move(setting);
  }
  return result;
}

// Stores one setting; returns what is wrong with it, or "".
std::string apply(RunConfig& config, const Setting& setting, Intent intent) {
  const auto& [option, value, where] = setting;
  if (option->status == Status::no_meaning) {
    config.warnings.push_back(fmt::format("{}: {} has no effect: {}", where, option->name, option->reason));
    return "";
  }
  const bool not_built = option->status == Status::not_built;
  if (not_built && asks_for_nothing(*option, value)) return "";
  if (not_built || contains(option->later, value)) {
    if (intent == Intent::run)
      return fmt::format("{}: {}: asked for '{}', but {}", where, option->name, value, option->reason);
    config.warnings.push_back(fmt::format("{}: {} {}: {}", where, option->name, value, option->reason));
  }
  if (const auto expected = assign(config, *option, value))
    return fmt::format("{}: {}: expected {}, found '{}'", where, option->name, *expected, value);
  return "";
}

bool insists(const std::string& threshold) { return threshold.ends_with('!'); }

// "512" or "512!"; nothing if it is neither.
std::optional<int> tokens_of(const std::string& threshold) {
  const std::string digits = threshold.substr(0, threshold.size() - insists(threshold));
  if (digits.empty() || digits.size() > 9 || digits.find_first_not_of("0123456789") != digits.npos) return std::nullopt;
  return std::stoi(digits);
}

bool is_origin(std::string_view text) {
  const size_t host = text.starts_with("http://") ? 7 : text.starts_with("https://") ? 8 : text.size();
  return host < text.size() && text.find('/', host) == text.npos;
}

// What single options cannot tell.
std::vector<std::string> conflicts(const RunConfig& config) {
  std::vector<std::string> problems;
  if (config.model.empty())
    problems.push_back("model is required: --model DIR, or 'model: DIR' in the file of --config");
  const size_t nodes = config.kt_numa_nodes.size();
  if (nodes > 0 && config.kt_threadpool_count.value_or(static_cast<int>(nodes)) != static_cast<int>(nodes))
    problems.push_back(fmt::format("kt-numa-nodes: expected {} numbers, one for each of kt-threadpool-count, found {}",
                                   *config.kt_threadpool_count, nodes));
  if (config.expert_distribution_recorder_buffer_size == 0)
    problems.push_back("expert-distribution-recorder-buffer-size: expected steps, or -1 for all, found 0");
  for (const std::string_view origin : split(config.allowed_origins, ','))
    if (!is_origin(origin))
      problems.push_back(
          fmt::format("allowed-origins: expected http:// or https:// and a host, without a path, found '{}'", origin));
  const std::string& threshold = config.kt_gpu_prefill_token_threshold;
  const std::optional<int> number = tokens_of(threshold);
  if (threshold != "auto" && !number)
    problems.push_back(
        fmt::format("kt-gpu-prefill-token-threshold: expected a number of tokens, or auto, found '{}'", threshold));
  if (config.kt_enable_dynamic_expert_update && number == 0)
    problems.push_back(
        "kt-enable-dynamic-expert-update: hot experts are re-chosen during prefills of "
        "kt-gpu-prefill-token-threshold tokens or more, which is not set: set it, for example to 512");
  if (config.kt_enable_dynamic_expert_update && !config.kt_gpu_experts_ratio && !config.kt_num_gpu_experts)
    problems.push_back(
        "kt-enable-dynamic-expert-update: no expert is hot that could be exchanged: set kt-num-gpu-experts or "
        "kt-gpu-experts-ratio");
  if (config.kt_expert_placement_strategy == "frequency" && config.init_expert_location == "trivial")
    problems.push_back(
        "kt-expert-placement-strategy frequency: needs the counts of a recording: set init-expert-location to a file");
  if (config.hot_weights == "model" &&
      config.kt_gpu_experts_ratio.value_or(config.kt_num_gpu_experts.value_or(0)) == 0.0)
    problems.push_back("hot-weights model: no expert is hot: set kt-num-gpu-experts or kt-gpu-experts-ratio");
  const auto needs_shards = [&](bool asked, std::string_view option, std::string_view why) {
    if (config.bank == "replicate" && asked)
      problems.push_back(fmt::format("bank replicate: {} {}: leave one of them out", option, why));
  };
  needs_shards(config.expert_layout != "hybrid", "expert-layout " + config.expert_layout,
               "is of banks that are cut for one layout, and steps choose their own");
  needs_shards(config.ep_num_redundant_experts > 0, "ep-num-redundant-experts",
               "copies what is on all machines already");
  needs_shards(config.kt_gpu_experts_ratio.value_or(config.kt_num_gpu_experts.value_or(0)) > 0.0,
               "kt-num-gpu-experts or kt-gpu-experts-ratio", "fetches experts from banks where they are in one piece");
  needs_shards(number != 0, "kt-gpu-prefill-token-threshold", "fetches experts from banks where they are in one piece");
  if (config.sliced_below && config.bank != "replicate")
    problems.push_back("sliced-below: only replicated banks let steps choose: set bank to replicate");
  if (config.on_lost_expert_rank == "go-on" && number != 0)
    problems.push_back(
        "on-lost-expert-rank go-on: kt-gpu-prefill-token-threshold fetches experts from where they are at home: leave "
        "one of them out");
  if (config.trunk_matmul == "tensor" && !config.device.starts_with("cuda"))
    problems.push_back(fmt::format("trunk-matmul tensor: only GPUs have tensor cores: expected device cuda, found '{}'",
                                   config.device));
  if (config.trunk_sums == "nccl" && config.device == "cpu")
    problems.push_back("trunk-sums nccl: NCCL adds between GPUs: expected device cuda, found 'cpu'");
  if (config.trunk_sums == "nccl" && config.tensor_parallel_size == 1)
    problems.push_back("trunk-sums nccl: one trunk rank adds with no other: set tensor-parallel-size, or leave it out");
  if (config.trunk_sums == "nccl" && config.on_lost_expert_rank == "go-on")
    problems.push_back(
        "on-lost-expert-rank go-on: trunk ranks leave a step at different sums, and NCCL cannot take them back: set "
        "trunk-sums to host");
  return problems;
}

void fill_defaults(RunConfig& config) {
  for (std::string* path : {&config.tokenizer_path, &config.kt_weight_path, &config.served_model_name})
    if (path->empty()) *path = config.model;
  if (config.update_threshold() > 0 && config.prefill_threshold() < 0)
    config.warnings.push_back(fmt::format(
        "kt-gpu-prefill-token-threshold {0}: the trunk is on the CPU, where experts seldom come faster than "
        "rows go to them: each prompt takes the path that is measured to be faster (auto); {0}! would insist",
        config.kt_gpu_prefill_token_threshold));
}

void set_log_style(const RunConfig& config) {
  using enum LogLevel;
  const std::string& level = config.log_level;
  set_log_style(level == "error"   ? error
                : level == "info"  ? info
                : level == "debug" ? debug
                                   : warn,
                config.log_format == "json");
}

[[noreturn]] void fail_with(const std::vector<std::string>& problems) {
  fail(kExitUsage, "{}\nktmpi serve --help lists the options", fmt::join(problems, "\n"));
}

}  // namespace

int RunConfig::prefill_threshold() const {
  if (kt_gpu_prefill_token_threshold == "auto") return -1;
  const int tokens = update_threshold();
  const bool literal = tokens == 0 || device == "cuda" || insists(kt_gpu_prefill_token_threshold);
  return literal ? tokens : -1;
}

int RunConfig::update_threshold() const { return tokens_of(kt_gpu_prefill_token_threshold).value_or(0); }

RunConfig parse_run_config(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  return parse_run_config(arguments);
}

RunConfig parse_run_config(std::span<const std::string> arguments, Intent intent) {
  CommandLine command_line = read_command_line(arguments);
  std::vector<Setting> settings;
  if (!command_line.config.empty()) settings = read_yaml(command_line.config);
  settings.insert(settings.end(), command_line.settings.begin(), command_line.settings.end());

  RunConfig config;
  std::vector<std::string> problems;
  for (const Setting& setting : last_of_each(std::move(settings)))
    if (std::string problem = apply(config, setting, intent); !problem.empty()) problems.push_back(std::move(problem));
  set_log_style(config);
  if (problems.empty()) problems = conflicts(config);
  if (!problems.empty()) fail_with(problems);
  fill_defaults(config);
  return config;
}

std::string to_json(const RunConfig& config) {
  const auto value_of = [&](auto field) -> nlohmann::json {
    if constexpr (std::is_same_v<decltype(field), std::monostate>) {
      return nullptr;
    } else if constexpr (std::is_same_v<decltype(field), std::optional<int> RunConfig::*> ||
                         std::is_same_v<decltype(field), std::optional<double> RunConfig::*>) {
      return config.*field ? nlohmann::json(*(config.*field)) : nlohmann::json();
    } else {
      return config.*field;
    }
  };
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (const Option& option : all_options()) {
    if (option.status != Status::active) continue;
    std::string key(option.name);
    std::replace(key.begin(), key.end(), '-', '_');
    object[key] = std::visit(value_of, option.field);
    if (option.secret) object[key] = object[key] == "" ? nlohmann::ordered_json() : "***";
  }
  // A path that is not UTF-8 shows U+FFFD instead of failing the request.
  return object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace kt
