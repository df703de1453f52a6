#include "runtime/rank/agreement.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/checkpoint/checksum.h"
#include "runtime/checkpoint/fingerprint.h"

namespace kt {
namespace {

using Facts = nlohmann::ordered_json;  // what -> value

// Machines may have files in places of their own, and rank 0 alone talks to clients.
constexpr std::string_view kNotCompared[] = {
    "model",         "tokenizer_path", "kt_weight_path", "served_model_name", "init_expert_location",
    "url_file",      "api_key",        "api_key_file",   "admin_api_key",     "kt_expert_statistics",
    "chat_template", "host",           "port",
};

void require_same(Transport& transport, const Facts& mine, ExitCode code, std::string_view what_to_do,
                  const NameOfRank& name_of) {
  const std::vector<std::string> all = all_gather(transport, mine.dump());
  for (size_t r = 1; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    const Facts first = Facts::parse(all[0]), other = Facts::parse(all[r]);
    const auto shown = [](const Facts& value) { return value.is_null() ? "not set" : value.dump(); };
    for (const auto& [name, value] : first.items())
      if (!other.contains(name) || other[name] != value)
        fail(code, "{}: {} is {}, on {} it is {}\n  {}", name_of(static_cast<int>(r)), name,
             other.contains(name) ? shown(other[name]) : "not there", name_of(0), shown(value), what_to_do);
  }
}

}  // namespace

void agree_on_start(Transport& transport, const RunConfig& run, const NameOfRank& name_of) {
  Facts facts;
  facts["the version"] = KTMPI_VERSION;
  const Facts options = Facts::parse(to_json(run));
  for (const auto& [name, value] : options.items()) {
    if (std::find(std::begin(kNotCompared), std::end(kNotCompared), name) != std::end(kNotCompared)) continue;
    std::string option(name);
    std::replace(option.begin(), option.end(), '_', '-');
    facts[option] = value;
  }
  require_same(transport, facts, kExitUsage, "all ranks need the same program and the same options", name_of);
}

void agree_on_model(Transport& transport, const LoadedConfig& model, const Checkpoint& checkpoint,
                    const NameOfRank& name_of) {
  Checksum config;
  config.update(model.raw.dump());
  Facts facts;
  facts["the checksum of config.json"] = fmt::format("{:016x}", config.value());
  facts["the checksum of the weights' names, shapes and places"] = fingerprint(checkpoint, "");
  facts["the checksum of samples of the weights"] = sampled_content(checkpoint);
  require_same(transport, facts, kExitModel, "copy the same release to all machines, or name one folder that all see",
               name_of);
}

}  // namespace kt
