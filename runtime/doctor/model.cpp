#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "kernels/device.h"
#include "runtime/arch/load_config.h"
#include "runtime/base/error.h"
#include "runtime/base/units.h"
#include "runtime/checkpoint/dummy.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/doctor/checks.h"
#include "runtime/plan/plan.h"
#include "runtime/rank/expert_source.h"
#include "runtime/text/templates/chat_template.h"
#include "runtime/text/tokens/tokenizer.h"

namespace kt {
namespace {

std::unique_ptr<Checkpoint> open_weights(const RunConfig& run, const LoadedConfig& model) {
  if (run.load_format == "dummy") return dummy_checkpoint({.norm_plus_one = model.config.norm_plus_one});
  return open_checkpoint(run.model);
}

// As plan has it, with all that limits memory, and the GPUs that are here.
Hardware hardware_of(const Site& site) {
  Hardware here = this_machine();
  here.nodes = site.machines;
  here.memory_gb = static_cast<double>(memory_left(site)) / 1e9;
  for (const DeviceKind& kind : device_kinds()) {
    if (!kind.list) continue;
    for (const DeviceHere& device : kind.list().devices) {
      const double free = gb(kind.available_bytes(device.index));
      here.gpu_memory_gb = here.gpus ? std::min(here.gpu_memory_gb, free) : free;
      ++here.gpus;
    }
  }
  return here;
}

std::string advice_of(const ClusterPlan& plan) {
  if (!plan.remedies.options.empty()) return describe(plan.remedies);
  if (plan.nodes_needed) return fmt::format("{} machines like this one", plan.nodes_needed);
  return "more memory, or a smaller model";
}

}  // namespace

Findings check_config(const Site& site) {
  try {
    const LoadedConfig model = load_model_config(site.run.model);
    const ModelConfig& c = model.config;
    Findings findings = {ok(fmt::format("{}: {} layers, {} experts", c.architecture, c.layers.size(), c.moe.experts))};
    for (const std::string& warning : site.run.warnings) findings.push_back(note(warning));
    return findings;
  } catch (const Error& e) {
    return {problem_of(e.what(), "the folder of a supported model, as docs/quickstart.md has it")};
  }
}

Findings check_files(const Site& site) {
  const RunConfig& run = site.run;
  try {
    const LoadedConfig model = load_model_config(run.model);
    const std::unique_ptr<Checkpoint> weights = open_weights(run, model);
    const std::unique_ptr<ExpertFiles> experts = find_experts(run, model, *weights);
    if (run.load_format == "dummy") return {ok("load-format dummy: none are read")};
    Findings findings = {
        ok(fmt::format("{} tensors, {}; all files are there and as long as they say", weights->names().size(),
                       size_text(static_cast<int64_t>(weights->total_bytes()))))};
    if (!experts->warning.empty()) findings.push_back(note(experts->warning));
    return findings;
  } catch (const Error& e) {
    return {problem_of(e.what(), "download the model again, or name the right folder")};
  }
}

Findings check_fit(const Site& site) {
  try {
    const RunConfig& run = site.run;
    const LoadedConfig model = load_model_config(run.model);
    const Hardware here = hardware_of(site);
    const ClusterPlan plan = plan_cluster(run, model, planned_format(run, model.config), here, site.world);
    std::vector<size_t> needed(static_cast<size_t>(site.machines));
    for (const RankPlan& rank : plan.ranks)
      needed[static_cast<size_t>(rank.node)] +=
          plan.deployment.gpu_trunk ? rank.memory.in_memory() : rank.memory.total();
    const std::string what =
        fmt::format("{} rank{} on {} machine{} need{} {:.2f} GB of memory{}, {:.1f} GB are available on this one",
                    plan.ranks.size(), plan.ranks.size() == 1 ? "" : "s", site.machines, site.machines == 1 ? "" : "s",
                    plan.ranks.size() == 1 ? "s" : "", gb(*std::max_element(needed.begin(), needed.end())),
                    site.machines == 1 ? "" : " of a machine", here.memory_gb);
    Findings findings = {plan.shortages.empty() ? ok(what) : problem(what, advice_of(plan))};
    std::string worlds;
    for (const WorldSize& world : plan.worlds) worlds += fmt::format("{}{}", worlds.empty() ? "" : ", ", world.ranks);
    findings.push_back(
        ok(fmt::format("numbers of ranks that are valid on {} machine{}: {}; ktmpi plan says what each takes",
                       site.machines, site.machines == 1 ? "" : "s", worlds)));
    return findings;
  } catch (const Error& e) {
    return {problem_of(e.what(), "ktmpi plan with the same options says more")};
  }
}

Findings check_tokenizer(const Site& site) {
  try {
    const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(site.run.tokenizer_path);
    const int vocab = load_model_config(site.run.model).config.vocab;
    if (tokenizer->size() > vocab)
      return {note(fmt::format("the tokenizer has ids to {}, the model {}", tokenizer->size() - 1, vocab - 1),
                   "the tokenizer of the same model (tokenizer-path)")};
    return {ok(fmt::format("{} tokens, of {} that the model has", tokenizer->size(), vocab))};
  } catch (const Error& e) {
    return {problem_of(e.what(), "the folder that has the model's tokenizer, with --tokenizer-path")};
  }
}

Findings check_template(const Site& site) {
  try {
    load_chat_template(site.run.model, site.run.chat_template);
    return {ok("the chat template is read")};
  } catch (const TemplateError& e) {
    return {problem(fmt::format("the chat template is wrong: {}", e.what()), "another one, with --chat-template")};
  } catch (const Error& e) {
    if (e.exit_code() == kExitModel)  // the server says so, and serves the rest
      return {note(fmt::format("no chat template: {}", e.what()), "nothing, if no chats are to be served")};
    return {problem_of(e.what(), "another --chat-template, or none")};
  }
}

}  // namespace kt
