// `ktmpi bench scale`: how steps get faster with more ranks. It is no rank itself: it starts `ktmpi bench step` jobs,
// by turns with those of the fewest ranks, and reads their lines.

#include <unistd.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/buffer.h"
#include "kernels/ops.h"
#include "launcher/child_job.h"
#include "launcher/commands.h"
#include "launcher/help_text.h"
#include "launcher/lines.h"
#include "launcher/number_list.h"
#include "launcher/own_options.h"
#include "launcher/scaling.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/comm/machine.h"
#include "runtime/config/hub_cache.h"
#include "runtime/config/words.h"
#include "runtime/plan/calibration.h"
#include "runtime/rank/expert_source.h"
#include "runtime/rank/machine_limits.h"

namespace kt {
namespace {

namespace po = boost::program_options;
using Json = nlohmann::ordered_json;

constexpr std::string_view kSummary =
    "Usage: ktmpi bench scale --model DIR [--ranks N,...] [--batch N,...] [OPTION ...] > lines.jsonl\n\n"
    "Measures prefill and decode on several numbers of ranks, beside what the cost model predicts. Starts a job of\n"
    "bench step for each point, by turns with one of the fewest ranks; run it once, not under a launcher. Takes all\n"
    "options of serve.";

constexpr std::string_view kRanks = "{ranks}";  // in --launcher
constexpr int kCalibrated = 2;                  // ranks up to which own lines calibrate the prediction

struct Settings {
  std::string ranks = "1,2,3,4", batches = "1,4,16,32", layouts = "hybrid", transports = "auto", scaling = "strong";
  std::string launcher = "mpirun -np {ranks}", hardware, calibrate;
  int prompt = 512, decode = 16, rounds = 3, layers = 0, experts = 0;
  bool json = false, help = false;
  std::vector<std::string> rest;  // options of serve
};

po::options_description describe(Settings& s) {
  po::options_description options;
  options.add_options()("ranks", po::value(&s.ranks)->value_name("N,...")->default_value(s.ranks),
                        "numbers of ranks; the least of them is the base of all speedups");
  options.add_options()("batch", po::value(&s.batches)->value_name("N,...")->default_value(s.batches),
                        "sequences at a time");
  options.add_options()("prompt", po::value(&s.prompt)->value_name("N")->default_value(s.prompt),
                        "tokens of each prompt, and of the context in decode");
  options.add_options()("layouts", po::value(&s.layouts)->value_name("WORD,...")->default_value(s.layouts),
                        "values of expert-layout");
  options.add_options()("transports", po::value(&s.transports)->value_name("WORD,...")->default_value(s.transports),
                        "values of transport");
  options.add_options()("scaling", po::value(&s.scaling)->value_name("WORD,...")->default_value(s.scaling),
                        "strong: the same batch on all ranks; weak: a batch that grows with them");
  options.add_options()("launcher", po::value(&s.launcher)->value_name("WORDS")->default_value(s.launcher),
                        "what starts a job, as in a shell; {ranks} stands for their number");
  options.add_options()("decode", po::value(&s.decode)->value_name("N")->default_value(s.decode),
                        "decode steps of each job");
  options.add_options()("rounds", po::value(&s.rounds)->value_name("N")->default_value(s.rounds),
                        "jobs of each point; lines give medians");
  options.add_options()("layers", po::value(&s.layers)->value_name("N"), "as of bench step");
  options.add_options()("experts", po::value(&s.experts)->value_name("N"), "likewise");
  options.add_options()("hardware", po::value(&s.hardware)->value_name("FILE"),
                        "the machines, for the prediction (default: this one, measured)");
  options.add_options()("calibrate", po::value(&s.calibrate)->value_name("FILE"),
                        "lines of bench scale that calibrate it (default: own lines of one and two ranks)");
  options.add_options()("json", po::bool_switch(&s.json), "JSON Lines also on a terminal, where else there is a table");
  options.add_options()("help,h", po::bool_switch(&s.help), "print this text");
  return options;
}

std::vector<std::string> words(const char* option, const std::string& list, std::string_view valid) {
  std::vector<std::string> result;
  for (const std::string_view word : split(list, ',')) {
    if (!contains(valid, word))
      fail(kExitUsage, "{}: expected some of {}, comma-separated, found '{}'", option,
           fmt::join(split(valid, '|'), ", "), word);
    result.emplace_back(word);
  }
  if (result.empty()) fail(kExitUsage, "{}: expected at least one word", option);
  return result;
}

// ---- points --------------------------------------------------------------------------------------------------------

std::vector<ScalePoint> points_of(const Settings& s) {
  std::vector<int> ranks = number_list("ranks", s.ranks);
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  const std::vector<int> batches = number_list("batch", s.batches);
  if (ranks.empty() || batches.empty()) fail(kExitUsage, "ranks and batch: expected at least one number each");
  return scale_points({.ranks = ranks,
                       .batches = batches,
                       .layouts = words("layouts", s.layouts, "slice|expert|hybrid|auto"),
                       .transports = words("transports", s.transports, "auto|mpi|ucx|local"),
                       .scaling = words("scaling", s.scaling, "strong|weak")});
}

void check(const Settings& s) {
  for (const auto& [name, value] : {std::pair{"decode", s.decode}, {"rounds", s.rounds}})
    if (value < 1 || value > 1 << 20) fail(kExitUsage, "{}: expected 1 to {}, found {}", name, 1 << 20, value);
  if (s.prompt < 2 || s.prompt > 1 << 20) fail(kExitUsage, "prompt: expected 2 to {}, found {}", 1 << 20, s.prompt);
  if (s.launcher.find(kRanks) == std::string::npos)
    fail(kExitUsage, "launcher: expected {} where the number of ranks goes, found '{}'", kRanks, s.launcher);
  for (const std::string& option : s.rest)
    for (const auto& [theirs, ours] : {std::pair{"expert-layout", "layouts"}, {"transport", "transports"}})
      if (with_dashes(option).starts_with(fmt::format("--{}", theirs)))
        fail(kExitUsage, "{}: bench scale has --{}, which may name several", option, ours);
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK"})
    if (std::getenv(variable))
      fail(kExitUsage, "bench scale starts jobs itself: run it once, not under a launcher ({} is set)", variable);
}

Settings read_settings(int argc, char** argv) {
  Settings s;
  const po::options_description options = describe(s);
  po::variables_map values;
  s.rest = take_own_options(argc, argv, "bench scale", options, values);
  if (s.help) {
    std::ostringstream help;
    help << options;
    print_help(fmt::format("{}\n\nOptions:\n{}\nktmpi serve --help lists the others.\n", kSummary, help.str()));
  } else {
    check(s);
  }
  return s;
}

// ---- jobs ----------------------------------------------------------------------------------------------------------

// The lines of one job: a prefill and a decode.
std::vector<Json> run_job_of(const Settings& s, const ScalePoint& p) {
  std::string launcher = s.launcher;
  for (size_t at = 0; (at = launcher.find(kRanks, at)) != std::string::npos;)
    launcher.replace(at, kRanks.size(), std::to_string(p.ranks));
  std::vector<std::string> arguments = {std::filesystem::read_symlink("/proc/self/exe").string(), "bench", "step"};
  const auto add = [&](const char* option, const std::string& value) {
    arguments.insert(arguments.end(), {option, value});
  };
  add("--max-decode-stall-ms", "0");  // no decode steps between prompts, unless it is asked for
  arguments.insert(arguments.end(), s.rest.begin(), s.rest.end());
  add("--prompt", std::to_string(s.prompt)), add("--batch", std::to_string(p.batch));
  add("--decode", std::to_string(s.decode));
  if (s.layers) add("--layers", std::to_string(s.layers));
  if (s.experts) add("--experts", std::to_string(s.experts));
  add("--expert-layout", p.layout), add("--transport", p.ranks == 1 ? "auto" : p.transport);
  arguments.push_back("--json");
  const ChildResult job = run_child(launcher, arguments);
  if (job.exit_code != 0)
    fail(job.exit_code == kExitUsage ? kExitUsage : kExitTryAgain, "bench scale: {}: the job ended with {}{}",
         to_text(p), job.exit_code, reason_of(job.error));
  std::vector<Json> lines = step_lines_of(job.out);
  if (lines.size() != 2)
    fail(kExitTryAgain, "bench scale: {}: expected a line of prefill and one of decode, found {}{}", to_text(p),
         lines.size(), reason_of(job.error));
  return lines;
}

// What this machine reads and multiplies, all of its cores together.
Hardware measured_here(Format format) {
  constexpr size_t kBytes = size_t{1} << 30;
  Hardware here = this_machine();
  const Ops& ops = choose_ops();
  ThreadPool pool(here.cores, {});
  const Buffer memory(kBytes, -1, pool);
  here.memory_bandwidth_gbs = measure_dram(pool, ops, memory);
  here.cpu_tflops = measure_peak(pool, ops, info(format).int8_activations) / 1e3;
  log("this machine: reads {:.1f} GB/s, multiplies {:.2f} TFLOP/s", here.memory_bandwidth_gbs, here.cpu_tflops);
  return here;
}

// ---- lines ---------------------------------------------------------------------------------------------------------

std::vector<Column> columns() {
  return {{.member = "phase", .left = true},
          {.member = "scaling", .left = true},
          {.member = "ranks", .width = 5},
          {.member = "nodes", .width = 5},
          {.member = "layout", .left = true},
          {.member = "transport", .width = 9, .left = true},
          {.member = "batch", .width = 5},
          {.member = "ms_median", .title = "ms", .digits = 3, .width = 10},
          {.member = "tokens_per_s", .title = "tokens/s", .digits = 1, .width = 9},
          {.member = "speedup", .digits = 2},
          {.member = "efficiency", .digits = 2, .width = 10},
          {.member = "predicted_ms", .title = "predicted", .digits = 3, .width = 10}};
}

// Prints points with what is predicted of them, those of few ranks once they have calibrated it.
class Predicted {
 public:
  Predicted(Twins& twins, std::optional<CostFactors> factors, bool table)
      : twins_(twins), factors_(factors), lines_(columns(), table) {}

  void add(std::vector<Json> of_point, int ranks) {
    if (!factors_ && ranks > kCalibrated && !waiting_.empty()) finish();
    for (Json& line : of_point) factors_ ? print(std::move(line)) : waiting_.push_back(std::move(line));
  }
  // No more points come that calibrate.
  void finish() {
    if (factors_ || waiting_.empty()) return;
    factors_.emplace();
    or_without([&] {
      std::vector<MeasuredStep> steps;
      for (const Json& line : waiting_) steps.push_back(*measured_step(line, "line"));
      factors_ = calibrate(steps, twins_);
    });
    for (Json& line : std::exchange(waiting_, {})) print(std::move(line));
  }

 private:
  void print(Json line) {
    line["predicted_ms"] = nullptr;
    or_without([&] {
      const MeasuredStep step = *measured_step(line, "line");
      line["predicted_ms"] = rounded_ms(predict(std::span(&step, 1), twins_, *factors_).front().predicted_ms);
    });
    lines_.print(line);
  }
  // What was measured is worth its line also where nothing can be predicted: a network that nobody has described.
  void or_without(const std::function<void()>& prediction) {
    try {
      if (predictable_) prediction();
    } catch (const Error& e) {
      log_warning("nothing is predicted: {}", e.what());
      predictable_ = false;
    }
  }

  Twins& twins_;
  std::optional<CostFactors> factors_;
  Lines lines_;
  std::vector<Json> waiting_;
  bool predictable_ = true;
};

// Points in order, each round of one right after a round of its base.
void measure(const Settings& s, const std::vector<ScalePoint>& points, const Hardware& hardware, Predicted& predicted) {
  int number = 0;
  for (const ScalePoint& p : points) {
    log("{} of {}: {}", ++number, points.size(), to_text(p));
    std::vector<Round> rounds;
    for (int r = 0; r < s.rounds; ++r) {
      Round round;
      if (!p.is_base()) round.base = run_job_of(s, base_of(p));
      round.point = run_job_of(s, p);
      if (p.is_base()) round.base = round.point;
      rounds.push_back(std::move(round));
    }
    std::vector<Json> lines = lines_of(p, rounds);
    for (Json& line : lines)
      line.update(Json{{"memory_gbs", rounded_ms(hardware.memory_bandwidth_gbs)},
                       {"cpu_tflops", rounded_ms(hardware.cpu_tflops)}});
    predicted.add(std::move(lines), p.ranks);
  }
  predicted.finish();
}

}  // namespace

int bench_scale_command(int argc, char** argv) {
  const Settings s = read_settings(argc, argv);
  if (s.help) return kExitOk;
  const std::vector<ScalePoint> points = points_of(s);
  const RunConfig run = with_model_folders(parse_run_config(s.rest));
  const LoadedConfig model = load_model_config(run.model);
  if (!model.config.moe.experts) fail(kExitUsage, "bench scale: {} has no routed experts", run.model);
  const Format format = planned_format(run, model.config);
  const Hardware hardware = s.hardware.empty() ? measured_here(format) : read_hardware(s.hardware);
  Twins twins(run, model, format, hardware,
              [](const ModelConfig& m) { return std::vector<Chances>{uniform_chances(m.moe)}; });
  std::optional<CostFactors> factors;
  if (!s.calibrate.empty()) factors = calibrate(read_measured(s.calibrate), twins);
  Predicted predicted(twins, factors, !s.json && prints_to_terminal());
  measure(s, points, hardware, predicted);
  return kExitOk;
}

}  // namespace kt
