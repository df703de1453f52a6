#include "runtime/rank/agreement.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/base/build_id.h"
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
    "chat_template", "host",           "port",           "comm_interface",
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

std::string checksum_of(std::string_view text) {
  Checksum sum;
  sum.update(text);
  return fmt::format("{:016x}", sum.value());
}

// Of those that are not the model's own. A converted folder's manifest has the checksums of its layers.
std::string checksum_of_files(const ExpertFiles& experts) {
  std::string text;
  if (experts.checkpoint) text = fingerprint(*experts.checkpoint, "") + sampled_content(*experts.checkpoint);
  if (experts.packed)
    for (const auto& [layer, file] : experts.packed->files)
      text += fmt::format(" {} {} {}", layer, file.bytes, file.checksum);
  return checksum_of(text);
}

}  // namespace

void agree_on_start(Transport& transport, const RunConfig& run, const NameOfRank& name_of) {
  Facts facts;
  facts["the version"] = KTMPI_VERSION;
  facts["the build"] = build_id();
  const Facts options = Facts::parse(to_json(run));
  for (const auto& [name, value] : options.items()) {
    if (std::find(std::begin(kNotCompared), std::end(kNotCompared), name) != std::end(kNotCompared)) continue;
    std::string option(name);
    std::replace(option.begin(), option.end(), '_', '-');
    facts[option] = value;
  }
  require_same(transport, facts, kExitUsage, "all ranks need the same program and the same options", name_of);
}

std::string agree_on_model(Transport& transport, const LoadedConfig& model, const Checkpoint& checkpoint,
                           const ExpertFiles& experts, const HotSets& hot, std::span<const ExpertSets> copies,
                           const NameOfRank& name_of) {
  Facts facts;
  facts["the checksum of config.json"] = checksum_of(model.raw.dump());
  facts["the checksum of the weights' names, shapes and places"] = fingerprint(checkpoint, "");
  facts["the checksum of samples of the weights"] = sampled_content(checkpoint);
  facts["the experts' format"] = info(experts.source.format).name;
  facts["the checksum of the experts' files"] = checksum_of_files(experts);
  facts["the checksum of where experts are hot or copied"] = checksum_of(fmt::format("{} {}", hot, copies));
  require_same(transport, facts, kExitModel, "copy the same files to all machines, or name one folder that all see",
               name_of);
  return checksum_of(facts.dump());
}

}  // namespace kt
