// `ktmpi bench step`: prefill and decode through the engine and the ranks of `ktmpi serve`, without HTTP. One line for
// each measurement, with what every rank's time went into.

#include <algorithm>
#include <boost/program_options.hpp>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "launcher/commands.h"
#include "launcher/help_text.h"
#include "launcher/lines.h"
#include "launcher/number_list.h"
#include "launcher/own_options.h"
#include "launcher/step_lines.h"
#include "runtime/arch/cut_model.h"
#include "runtime/base/log.h"
#include "runtime/config/hub_cache.h"
#include "runtime/engine/step_recorder.h"
#include "runtime/rank/job_policy.h"
#include "runtime/rank/machine_limits.h"

namespace kt {
namespace {

namespace po = boost::program_options;
using Json = nlohmann::ordered_json;

constexpr std::string_view kSummary =
    "Usage: mpirun -np N ktmpi bench step --model DIR [OPTION ...] > lines.jsonl\n\n"
    "Times prefill and decode on the ranks that `ktmpi serve` would use, and takes all of its options. With\n"
    "--load-format dummy a folder that holds config.json is enough.";

struct Settings {
  std::string prompt_list, context_list;
  std::vector<int> prompts, contexts;
  std::string compare;  // "", "paths" or "recorder"
  int decode = 16, batch = 1, rounds = 1, layers = 0, experts = 0;
  bool no_indexer = false, json = false;
  std::vector<std::string> rest;  // the options of serve

  int longest() const {
    int most = 0;
    for (const std::vector<int>& list : {prompts, contexts})
      for (int n : list) most = std::max(most, n);
    return most;
  }
};

po::options_description describe(Settings& s) {
  po::options_description options;
  options.add_options()("prompt", po::value(&s.prompt_list)->value_name("N,..."),
                        "prompts of so many random tokens; with neither list: 64,2048");
  options.add_options()("context", po::value(&s.context_list)->value_name("N,..."),
                        "decode at so many tokens of context, whose cache holds arbitrary numbers");
  options.add_options()("decode", po::value(&s.decode)->value_name("N")->default_value(s.decode),
                        "decode steps of each measurement");
  options.add_options()("batch", po::value(&s.batch)->value_name("N")->default_value(s.batch), "sequences at a time");
  options.add_options()("rounds", po::value(&s.rounds)->value_name("N")->default_value(s.rounds),
                        "measure so many times; lines give medians");
  options.add_options()("compare", po::value(&s.compare)->value_name("WORD"),
                        "take all steps in two ways by turns, a line for each: recorder (off, on), or paths (prompts "
                        "hybrid, layerwise) with what the policy predicts and would choose");
  options.add_options()("layers", po::value(&s.layers)->value_name("N"),
                        "only so many layers, the first and the last ones; with load-format dummy");
  options.add_options()("experts", po::value(&s.experts)->value_name("N"),
                        "only so many routed experts of a layer, likewise");
  options.add_options()("no-indexer", po::bool_switch(&s.no_indexer),
                        "let a model with sparse attention attend to all keys");
  options.add_options()("json", po::bool_switch(&s.json), "JSON Lines also on a terminal, where else there is a table");
  options.add_options()("help,h", "print this text");
  return options;
}

void check(Settings& s) {
  s.prompts = number_list("prompt", s.prompt_list);
  s.contexts = number_list("context", s.context_list);
  if (s.prompts.empty() && s.contexts.empty()) s.prompts = {64, 2048};
  for (int prompt : s.prompts)
    if (prompt < 2) fail(kExitUsage, "prompt 1: one token is a decode step; expected at least 2");
  static constexpr int kMost = 1 << 20;
  const auto within = [](const char* name, int value, int least) {
    if (value < least || value > kMost)
      fail(kExitUsage, "{}: expected at least {}, at most {}, found {}", name, least, kMost, value);
  };
  within("decode", s.decode, 1);
  within("batch", s.batch, 1);
  within("rounds", s.rounds, 1);
  within("layers", s.layers, 0);
  within("experts", s.experts, 0);
  if (!s.compare.empty() && s.compare != "paths" && s.compare != "recorder")
    fail(kExitUsage, "compare: expected paths or recorder, found '{}'", s.compare);
}

void print_own_help() {
  Settings defaults;
  std::ostringstream help;
  help << describe(defaults);
  print_help(fmt::format("{}\n\nOptions:\n{}\nktmpi serve --help lists the others.\n", kSummary, help.str()));
}

// What is no option of its own is one of serve's.
Settings read_settings(int argc, char** argv) {
  Settings settings;
  const po::options_description options = describe(settings);
  po::variables_map values;
  settings.rest = take_own_options(argc, argv, "bench step", options, values);
  check(settings);
  return settings;
}

// What the measurements need of the engine, where the options do not say it.
RunConfig run_config(const Settings& s) {
  RunConfig run = with_model_folders(parse_run_config(s.rest));
  run.disable_radix_cache = true;
  if (s.compare == "paths" && run.prefill_threshold() != -1)
    fail(kExitUsage, "compare paths: the policy chooses with kt-gpu-prefill-token-threshold auto alone");
  if (!run.max_running_requests) run.max_running_requests = s.batch;
  if (!run.max_total_tokens) {
    const int64_t tokens = cache_tokens(s.batch, s.longest(), s.decode);
    if (tokens > 1 << 30) fail(kExitUsage, "batch {} of {} tokens is more than a cache can hold", s.batch, s.longest());
    run.max_total_tokens = static_cast<int>(tokens);
  }
  return run;
}

void edit_model(const Settings& s, const RunConfig& run, ModelConfig& model) {
  if ((s.layers || s.experts) && run.load_format != "dummy")
    fail(kExitUsage, "layers and experts: a checkpoint has as many as it has; expected load-format dummy");
  if (s.no_indexer && !model.mla.indexer) fail(kExitUsage, "no-indexer: {} has none", model.architecture);
  if (s.no_indexer) model.mla.indexer.reset();
  cut_model(model, s.layers, s.experts);
}

// Checks what only rank 0 asks for, before any memory is taken.
void check_fits(const Settings& s, const JobRank& job) {
  const int64_t needed = cache_tokens(s.batch, s.longest(), s.decode);
  const int64_t there = int64_t{job.engine.kv_blocks} * kBlockTokens;
  if (s.batch > job.engine.max_running_requests)
    fail(kExitUsage, "batch {}: max-running-requests is {}", s.batch, job.engine.max_running_requests);
  if (needed > there || s.longest() + s.decode + 1 > job.engine.context_length)
    fail(kExitUsage, "batch {} of {} + {} tokens: the cache has room for {}, the model for {} each", s.batch,
         s.longest(), s.decode + 1, there, job.engine.context_length);
  if (s.compare == "paths" && int64_t{s.batch} * s.longest() > max_step_rows(job.engine))
    fail(kExitUsage, "compare paths: batch {} of {} tokens is more than a step of {}", s.batch, s.longest(),
         max_step_rows(job.engine));
}

// GB/s of every rank's threads, all of them reading at once.
std::vector<double> dram_limits(JobRank& job) {
  constexpr size_t kBytesOfMachine = 1ull << 30;
  const auto ranks_here = std::count(job.topology.node_of.begin(), job.topology.node_of.end(),
                                     job.topology.node_of[static_cast<size_t>(job.rank())]);
  const Buffer memory(kBytesOfMachine / static_cast<size_t>(ranks_here), job.cores.numa_node, *job.pool);
  job.transport.barrier();
  const double mine = measure_dram(*job.pool, *job.ops, memory);
  std::vector<double> all;
  for (const std::string& rate : all_gather(job.transport, fmt::format("{}", mine))) all.push_back(std::stod(rate));
  return all;
}

// A way to take the same steps: what it is called in lines, and what makes the following steps go that way.
struct Variant {
  Json names;
  std::function<void()> begin;
};

std::vector<Variant> variants(const Settings& s, ExpertPolicy& policy, Recorder& recorder) {
  if (s.compare == "recorder")
    return {{{{"recording", false}}, [&] { recorder.stop(); }}, {{{"recording", true}}, [&] { recorder.start(); }}};
  if (s.compare == "paths")
    return {{{{"path", "hybrid"}}, [&] { policy.force(Path::hybrid); }},
            {{{"path", "layerwise"}}, [&] { policy.force(Path::layerwise); }}};
  return {{Json::object(), [] {}}};
}

// What the policy says of a prompt of one step, before any such step was taken.
Json prediction(const Settings& s, const PrefillPath& path, const Json& names, int rows, int most) {
  if (s.compare != "paths") return names;
  const PrefillPath::Choice choice = path.choose(rows);
  Json line = names;
  const double seconds = names["path"] == "hybrid" ? choice.hybrid_s : choice.layerwise_s;
  line["predicted_ms"] = std::round(seconds * 1e6) / 1e3;
  line["chosen"] = choice.path == Path::hybrid ? "hybrid" : "layerwise";
  line["layerwise_from"] = path.layerwise_from(most);
  return line;
}

// All variants in turn, round by round, so that whatever else the machine does meets all of them alike.
void measure(const Settings& s, const JobRank& job, ClusterRunner& runner, RoutedSums& sums, ExpertPolicy& policy,
             Recorder& recorder, const StepLines& lines) {
  const std::vector<Variant> ways = variants(s, policy, recorder);
  const PrefillPath predicted = policy.path();
  const int most = max_step_rows(job.engine);
  const auto rounds = [&](const std::function<StepTiming()>& once) {
    std::vector<StepTiming> timings(ways.size());
    for (int i = 0; i < s.rounds; ++i)
      for (size_t w = 0; w < ways.size(); ++w) {
        ways[w].begin();
        sums.take();
        StepTiming timing = once();
        timing.routed = sums.take();
        timings[w] += timing;
      }
    return timings;
  };
  for (int prompt : s.prompts) {
    log("prompt {}", prompt);
    time_prompts(job, runner, s.batch, std::min(prompt, kBlockTokens), 1);  // warms up
    const auto timings = rounds([&] { return time_prompts(job, runner, s.batch, prompt, s.decode); });
    for (size_t w = 0; w < ways.size(); ++w) {
      lines.prefill(prompt, timings[w], prediction(s, predicted, ways[w].names, s.batch * prompt, most));
      lines.decode(prompt, timings[w], true, ways[w].names);
    }
  }
  for (int context : s.contexts) {
    log("context {}", context);
    const auto timings = rounds([&] { return time_contexts(job, runner, s.batch, context, s.decode); });
    for (size_t w = 0; w < ways.size(); ++w) lines.decode(context, timings[w], false, ways[w].names);
  }
}

int bench_step(const Settings& settings, JobRank& job) {
  const RunConfig& run = job.run;
  const auto edit = [&](LoadedConfig& loaded) { edit_model(settings, run, loaded.config); };
  if (!set_up(
          job, [&] { check_fits(settings, job); }, edit))
    return job.exit_code;
  std::vector<double> dram = dram_limits(job);
  if (job.cache && !settings.contexts.empty()) job.cache->fill_arbitrary();
  if (job.rank() != 0) {
    follow(job);
    return kExitOk;
  }
  ExpertPolicy policy(expert_policy_config(job));
  restore_averages(policy, run);
  Recorder recorder(recorder_config(run, job.model()));
  StepRecorder step_recorder(recorder, &policy.hot_now());
  RoutedSums sums;
  ClusterRunner runner(job.transport, job.topology, job.model(), job.trunk ? &*job.trunk : nullptr, job.group.get(),
                       {&policy, &step_recorder, &sums});
  policy.prepare(runner);
  const bool table = !settings.json && prints_to_terminal();
  measure(settings, job, runner, sums, policy, recorder, StepLines(job, settings.batch, std::move(dram), table));
  runner.dismiss();
  return kExitOk;
}

}  // namespace

int bench_step_command(int argc, char** argv) {
  const std::vector<std::string_view> arguments(argv, argv + argc);
  for (const std::string_view help : {"--help", "-h"})
    if (std::find(arguments.begin(), arguments.end(), help) != arguments.end()) {
      print_own_help();
      return kExitOk;
    }
  Settings settings;
  return run_job(
      argc, argv,
      [&] {
        settings = read_settings(argc, argv);
        return run_config(settings);
      },
      [&](JobRank& job) { return bench_step(settings, job); });
}

}  // namespace kt
