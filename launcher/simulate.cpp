// `ktmpi simulate`: how long steps would take on a described cluster, and what of it, for any number of machines.

#include <algorithm>
#include <boost/program_options.hpp>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "launcher/commands.h"
#include "launcher/help_text.h"
#include "launcher/lines.h"
#include "launcher/number_list.h"
#include "launcher/own_options.h"
#include "runtime/arch/cut_model.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/config/hub_cache.h"
#include "runtime/plan/calibration.h"
#include "runtime/rank/expert_source.h"
#include "runtime/recording/counts_file.h"

namespace kt {
namespace {

namespace po = boost::program_options;
using Json = nlohmann::ordered_json;

constexpr std::string_view kSummary =
    "Usage: ktmpi simulate --model DIR --hardware FILE [--nodes N,...] [--batch N,...] [--prompt N,...] [OPTION "
    "...]\n\n"
    "Predicts the time of a decode step and of a prompt on described machines, split into its parts. Needs the\n"
    "model's config.json and neither its weights nor the machines. Takes all options of serve, also those that are\n"
    "not built yet. Docs: docs/scaling.md.";

struct Settings {
  std::string hardware, measured_on, nodes, worlds, batches = "1", prompts = "2048", trace, calibrate, check;
  std::optional<double> skew;
  double skew_value = 0;
  int layers = 0, experts = 0;
  bool json = false, help = false;
  std::vector<std::string> rest;  // options of serve
};

po::options_description describe(Settings& s) {
  po::options_description options;
  options.add_options()("hardware", po::value(&s.hardware)->value_name("FILE"),
                        "YAML that describes the machines, as in configs/hardware");
  options.add_options()("nodes", po::value(&s.nodes)->value_name("N,..."),
                        "numbers of machines, instead of the one in the file");
  options.add_options()("world", po::value(&s.worlds)->value_name("N,..."),
                        "numbers of ranks (default: trunk ranks and expert ranks, as plan has them)");
  options.add_options()("batch", po::value(&s.batches)->value_name("N,...")->default_value(s.batches),
                        "sequences at a time");
  options.add_options()("prompt", po::value(&s.prompts)->value_name("N,...")->default_value(s.prompts),
                        "tokens of a prompt, and of the context in decode");
  options.add_options()("trace", po::value(&s.trace)->value_name("FILE"),
                        "how experts were used: a file of /dump_expert_distribution_record, or of counts");
  options.add_options()("skew", po::value(&s.skew_value)->value_name("X"),
                        "or the n-th most used expert in proportion to n^-X; without either all are used alike");
  options.add_options()("calibrate", po::value(&s.calibrate)->value_name("FILE"),
                        "lines of bench scale or bench step that say what kernels and messages cost");
  options.add_options()("check", po::value(&s.check)->value_name("FILE"),
                        "such lines to be predicted: the error of each, and at most");
  options.add_options()("measured-on", po::value(&s.measured_on)->value_name("FILE"),
                        "the machines of these lines (default: hardware)");
  options.add_options()("layers", po::value(&s.layers)->value_name("N"),
                        "only so many layers, the first and the last ones");
  options.add_options()("experts", po::value(&s.experts)->value_name("N"), "only so many routed experts of a layer");
  options.add_options()("json", po::bool_switch(&s.json), "JSON Lines also on a terminal, where else there is a table");
  options.add_options()("help,h", po::bool_switch(&s.help), "print this text");
  return options;
}

Settings read_settings(int argc, char** argv) {
  Settings s;
  const po::options_description options = describe(s);
  po::variables_map values;
  s.rest = take_own_options(argc, argv, "simulate", options, values);
  if (s.help) {
    std::ostringstream help;
    help << options;
    print_help(fmt::format("{}\n\nOptions:\n{}\nktmpi serve --help lists the others.\n", kSummary, help.str()));
    return s;
  }
  if (values.count("skew")) s.skew = s.skew_value;
  if (s.hardware.empty()) fail(kExitUsage, "simulate: --hardware is required; configs/hardware has examples");
  if (s.skew && !(*s.skew >= 0 && *s.skew <= 8))
    fail(kExitUsage, "skew: expected a number from 0 to 8, found {}", *s.skew);
  if (s.skew && !s.trace.empty()) fail(kExitUsage, "trace and skew: both say how experts are used; give one");
  if (s.calibrate.empty() && !s.check.empty())
    fail(kExitUsage, "check: nothing is calibrated; give lines with --calibrate too");
  if (s.layers < 0 || s.experts < 0) fail(kExitUsage, "layers and experts: expected numbers from 1");
  return s;
}

Use use_of(const Settings& s) {
  if (!s.trace.empty())
    return [counts = read_counts(s.trace)](const ModelConfig& model) { return recorded_chances(counts, model); };
  return [skew = s.skew.value_or(0)](const ModelConfig& model) {
    return std::vector<Chances>{skew > 0 ? skewed_chances(model.moe, skew) : uniform_chances(model.moe)};
  };
}

double rounded(double x, double to = 1e4) { return std::round(x * to) / to; }

std::vector<Column> columns() {
  return {{.member = "phase", .left = true},
          {.member = "nodes", .width = 5},
          {.member = "ranks", .width = 5},
          {.member = "prompt|context", .title = "tokens"},
          {.member = "batch", .width = 5},
          {.member = "ms", .digits = 3, .width = 10},
          {.member = "tokens_per_s", .title = "tokens/s", .digits = 1, .width = 9},
          {.member = "trunk_ms", .title = "trunk", .digits = 2},
          {.member = "shared_ms", .title = "shared", .digits = 2},
          {.member = "experts_ms", .title = "experts", .digits = 2},
          {.member = "imbalance", .digits = 2, .width = 9},
          {.member = "dispatch_ms", .title = "dispatch", .digits = 2, .width = 8},
          {.member = "messages_ms", .title = "messages", .digits = 2, .width = 8},
          {.member = "overhead_ms", .title = "layers", .digits = 2},
          {.member = "bound", .left = true}};
}

Json line_of(const Twin& twin, const Cluster& cluster, bool fits, bool prefill, int tokens, int batch,
             const CostFactors& factors) {
  const StepTime t =
      time_of(prefill ? prefill_work(twin, tokens, batch) : decode_work(twin, tokens, batch), twin, factors);
  Json line = {{"kind", "step"}, {"phase", prefill ? "prefill" : "decode"}};
  line[prefill ? "prompt" : "context"] = tokens;
  line.update(Json{{"batch", batch},
                   {"nodes", twin.hardware.nodes},
                   {"ranks", twin.topology.world},
                   {"layout", cluster.layout.layout},
                   {"fits", fits},
                   {"ms", rounded(t.total * 1e3)},
                   {"tokens_per_s", rounded((prefill ? double{1} * tokens : 1.0) * batch / t.total, 100)},
                   {"bound", t.bound()},
                   {"trunk_ms", rounded(t.trunk * 1e3)},
                   {"shared_ms", rounded(t.shared * 1e3)},
                   {"experts_ms", rounded(t.experts * 1e3)},
                   {"imbalance", rounded(t.imbalance)},
                   {"dispatch_ms", rounded(t.dispatch * 1e3)},
                   {"messages_ms", rounded(t.messages * 1e3)},
                   {"overhead_ms", rounded(t.overhead * 1e3)},
                   {"expert_bytes_of_node", std::round(t.expert_bytes)},
                   {"out_bytes", std::round(t.out_bytes)},
                   {"back_bytes", std::round(t.back_bytes)}});
  return line;
}

Json head_of(const MeasuredStep& s) {
  return {{"phase", s.prefill ? "prefill" : "decode"},
          {s.prefill ? "prompt" : "context", s.tokens},
          {"batch", s.batch},
          {"nodes", s.variant.nodes},
          {"ranks", s.variant.world.value_or(1)},
          {"layout", s.variant.layout}};
}

// How close the model is to measured lines; `kind` is "calibrated" or "check".
void print_errors(const char* kind, const std::vector<Prediction>& predictions, const CostFactors& f, bool table) {
  Lines lines({{.member = "phase", .left = true},
               {.member = "ranks", .width = 5},
               {.member = "layout", .left = true},
               {.member = "prompt|context", .title = "tokens"},
               {.member = "batch", .width = 5},
               {.member = "measured_ms", .digits = 3, .width = 11},
               {.member = "predicted_ms", .digits = 3, .width = 12},
               {.member = "error", .digits = 3}},
              table);
  for (const Prediction& p : predictions) {
    Json line = {{"kind", kind}};
    line.update(head_of(p.step));
    line.update(
        Json{{"measured_ms", p.step.ms}, {"predicted_ms", rounded(p.predicted_ms)}, {"error", rounded(p.error())}});
    lines.print(line);
  }
  const Errors e = errors_of(predictions);
  if (table) {
    fmt::print("{}: error of {} points: {:.1f} % in the median, {:.1f} % at most\n\n", kind, e.points, 100 * e.median,
               100 * e.max);
    return;
  }
  Json line = {{"kind", std::string(kind) + "_errors"},
               {"points", e.points},
               {"median_error", rounded(e.median)},
               {"max_error", rounded(e.max)},
               {"memory", rounded(f.memory)},
               {"compute", rounded(f.compute)},
               {"apart", rounded(f.apart)},
               {"layer_us", rounded(f.layer_us, 100)},
               {"message_us", rounded(f.message_us, 100)}};
  Lines({}, false).print(line);
}

}  // namespace

int simulate_command(int argc, char** argv) {
  const Settings s = read_settings(argc, argv);
  if (s.help) return kExitOk;
  const Hardware hardware = read_hardware(s.hardware);
  const std::vector<int> nodes = s.nodes.empty() ? std::vector<int>{hardware.nodes} : number_list("nodes", s.nodes);
  const std::vector<int> worlds = s.worlds.empty() ? std::vector<int>{0} : number_list("world", s.worlds);
  const std::vector<int> batches = number_list("batch", s.batches), prompts = number_list("prompt", s.prompts);
  const RunConfig run = with_model_folders(parse_run_config(s.rest, Intent::plan));
  for (const std::string& warning : run.warnings) log_warning("{}", warning);
  const LoadedConfig model = load_model_config(run.model);
  if (!model.config.moe.experts) fail(kExitUsage, "simulate: {} has no routed experts", run.model);
  const Format format = planned_format(run, model.config);
  const bool table = !s.json && prints_to_terminal();

  CostFactors factors;
  if (!s.calibrate.empty()) {
    // What was measured had random tokens and made-up weights, whose experts are used alike.
    Twins measured(run, model, format, s.measured_on.empty() ? hardware : read_hardware(s.measured_on),
                   [](const ModelConfig& m) { return std::vector<Chances>{uniform_chances(m.moe)}; });
    const std::vector<MeasuredStep> steps = read_measured(s.calibrate);
    factors = calibrate(steps, measured);
    print_errors("calibrated", predict(steps, measured, factors), factors, table);
    if (!s.check.empty()) print_errors("check", predict(read_measured(s.check), measured, factors), factors, table);
    if (table)
      fmt::print(
          "of the described rates: memory {:.2f}, multiplying {:.2f}, of the shorter of them {:.2f} apart from the "
          "longer; {:.1f} us a layer, {:.1f} us a message\n\n",
          factors.memory, factors.compute, factors.apart, factors.layer_us, factors.message_us);
  }

  Twins twins(run, model, format, hardware, use_of(s));
  Lines lines(columns(), table);
  for (const int n : nodes)
    for (const int world : worlds) {
      const Variant variant{.nodes = n,
                            .world = world ? std::optional(world) : std::nullopt,
                            .layout = {},
                            .layers = s.layers,
                            .experts = s.experts};
      const Twin& twin = twins.of(variant);
      const Cluster& cluster = twins.cluster_of(variant);
      Hardware machines = hardware;
      machines.nodes = n;
      const bool fits =
          find_shortages(cluster.run, plan_ranks(cluster.run, cluster.deployment), cluster.deployment, machines)
              .empty();
      for (const bool prefill : {false, true})
        for (const int tokens : prompts)
          for (const int batch : batches) lines.print(line_of(twin, cluster, fits, prefill, tokens, batch, factors));
    }
  return kExitOk;
}

}  // namespace kt
