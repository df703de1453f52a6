// `ktmpi bench serve`: load on a running server, and how it answered.

#include <cmath>
#include <ctime>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "launcher/commands.h"
#include "launcher/lines.h"
#include "launcher/replay.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/client/load.h"
#include "runtime/client/load_report.h"
#include "runtime/client/models.h"
#include "runtime/client/prompts.h"
#include "runtime/client/servers_here.h"

namespace kt {
namespace {

namespace po = boost::program_options;
using Json = nlohmann::ordered_json;

constexpr std::string_view kSummary =
    "Usage: ktmpi bench serve [--url URL] [OPTION ...] > result.json\n\n"
    "Sends streamed completions to a running server and prints one line of JSON under the names of `vllm bench "
    "serve`.\n"
    "Open loop: --request-rate; closed loop: --max-concurrency. Prompts are random tokens, answered to their full\n"
    "length, or come from a ShareGPT file.";

struct Settings {
  std::string url, api_key, model, dataset;
  int prompts = 100, warmups = 1, input_len = 1024, output_len = 128, sharegpt_output_len = 0, max_concurrency = 0;
  double request_rate = std::numeric_limits<double>::infinity();
  double temperature = 0;
  uint64_t seed = 0;
  bool ignore_eos = false, json = false;
};

po::options_description describe(Settings& s) {
  po::options_description options;
  const auto add = [&](const char* name, auto& value, const char* word, const char* help) {
    options.add_options()(name, po::value(&value)->value_name(word)->default_value(value), help);
  };
  const auto add_text = [&](const char* name, std::string& value, const char* word, const char* help) {
    options.add_options()(name, po::value(&value)->value_name(word), help);
  };
  add_text("url", s.url, "URL", "where the server answers (default: the server started last on this machine)");
  add_text("api-key", s.api_key, "KEY", "what the server wants to be shown");
  add_text("model", s.model, "NAME", "model (default: the server's first)");
  add("num-prompts", s.prompts, "N", "requests");
  add("num-warmups", s.warmups, "N", "requests before that, not measured");
  add("request-rate", s.request_rate, "X", "arrivals a second, a Poisson process; inf: all at once");
  add("max-concurrency", s.max_concurrency, "N", "most requests under way; 0: no limit");
  add("random-input-len", s.input_len, "N", "tokens of a random prompt");
  add("random-output-len", s.output_len, "N", "tokens of its answer");
  add_text("dataset-path", s.dataset, "FILE", "ShareGPT conversations instead of random prompts");
  add("sharegpt-output-len", s.sharegpt_output_len, "N", "tokens of their answers; 0: as many as in the file");
  options.add_options()("ignore-eos", po::bool_switch(&s.ignore_eos), "do not let the model end these answers");
  add("temperature", s.temperature, "X", "0: greedy");
  add("seed", s.seed, "N", "of prompts and arrivals");
  options.add_options()("json", po::bool_switch(&s.json), "JSON Lines also on a terminal, where else there is a table");
  return options;
}

void check(const Settings& s) {
  const auto at_least = [](const char* name, int value, int least) {
    if (value < least) fail(kExitUsage, "{}: expected at least {}, found {}", name, least, value);
  };
  at_least("num-prompts", s.prompts, 1);
  at_least("num-warmups", s.warmups, 0);
  at_least("max-concurrency", s.max_concurrency, 0);
  at_least("random-input-len", s.input_len, 1);
  at_least("random-output-len", s.output_len, 1);
  at_least("sharegpt-output-len", s.sharegpt_output_len, 0);
  if (!(s.request_rate > 0)) fail(kExitUsage, "request-rate: expected more than 0, found {}", s.request_rate);
}

std::vector<LoadRequest> make_requests(const Settings& s, const Endpoint& endpoint, int count) {
  const bool random = s.dataset.empty();
  const std::vector<Prompt> prompts = random
                                          ? random_prompts(endpoint, count, s.input_len, s.output_len, s.seed)
                                          : sharegpt_prompts(endpoint, s.dataset, count, s.sharegpt_output_len, s.seed);
  std::vector<LoadRequest> requests;
  for (const Prompt& prompt : prompts) {
    const Json body = {{"model", s.model},
                       {"prompt", prompt.prompt},
                       {"max_tokens", prompt.output_tokens},
                       {"temperature", s.temperature},
                       {"ignore_eos", random || s.ignore_eos},
                       {"stream", true},
                       {"stream_options", {{"include_usage", true}}}};
    requests.push_back({body.dump(-1, ' ', false, Json::error_handler_t::replace), prompt.prompt_tokens});
  }
  return requests;
}

// A line on stderr for each tenth of the requests.
class Progress {
 public:
  explicit Progress(int total) : total_(total) {}

  void done(const LoadRecord& record) {
    ++done_;
    if (!record.error.empty()) ++errors_[record.error];
    if (done_ * 10 / total_ == (done_ - 1) * 10 / total_) return;
    int failed = 0;
    for (const auto& [error, count] : errors_) failed += count;
    log("{} of {} requests done, {} failed", done_, total_, failed);
  }
  void say_errors() const {
    for (const auto& [error, count] : errors_) log_warning("{} requests failed: {}", count, error);
  }

 private:
  int total_, done_ = 0;
  std::map<std::string, int> errors_;
};

Json report(const Settings& s, const LoadResult& result) {
  const std::time_t now = std::time(nullptr);
  char date[32];
  std::strftime(date, sizeof date, "%Y%m%d-%H%M%S", std::gmtime(&now));
  Json out = {
      {"date", date},        {"backend", "openai"},        {"endpoint", "/v1/completions"},
      {"model_id", s.model}, {"num_prompts", s.prompts},   {"request_rate", "inf"},
      {"burstiness", 1.0},   {"max_concurrency", nullptr}, {"dataset", s.dataset.empty() ? "random" : "sharegpt"}};
  if (std::isfinite(s.request_rate)) out["request_rate"] = s.request_rate;
  if (s.max_concurrency > 0) out["max_concurrency"] = s.max_concurrency;
  out.update(load_report(result));
  return out;
}

// The figures, and below them what is in ms, a row for each time.
void print_tables(const Json& report) {
  Lines figures({{.member = "figure", .width = 24, .left = true}, {.member = "value", .digits = 2, .width = 12}}, true);
  for (const auto& [name, value] : report.items())
    if (!name.ends_with("_ms")) figures.print({{"figure", name}, {"value", value}});
  fmt::print("\n");
  Lines times({{.member = "ms", .width = 24, .left = true},
               {.member = "mean", .digits = 2, .width = 12},
               {.member = "median", .digits = 2, .width = 12},
               {.member = "std", .digits = 2, .width = 12},
               {.member = "p99", .digits = 2, .width = 12}},
              true);
  for (const std::string name : {"ttft", "tpot", "itl", "e2el"}) {
    Json line = {{"ms", name}};
    for (const char* statistic : {"mean", "median", "std", "p99"})
      line[statistic] = report[fmt::format("{}_{}_ms", statistic, name)];
    times.print(line);
  }
}

}  // namespace

int bench_serve_command(int argc, char** argv) {
  Settings settings;
  if (!read_options(argc, argv, kSummary, describe(settings))) return kExitOk;
  check(settings);

  const Endpoint endpoint = parse_url(settings.url.empty() ? url_of_last_server() : settings.url, settings.api_key);
  if (settings.model.empty()) settings.model = first_model(endpoint);
  LoadPlan plan{.endpoint = endpoint,
                .requests = make_requests(settings, endpoint, settings.warmups + settings.prompts),
                .requests_per_s = settings.request_rate,
                .max_concurrency = settings.max_concurrency,
                .seed = settings.seed};

  LoadPlan warmup{.endpoint = endpoint, .max_concurrency = 1};
  const auto first_measured = plan.requests.begin() + settings.warmups;
  warmup.requests.assign(plan.requests.begin(), first_measured);
  plan.requests.erase(plan.requests.begin(), first_measured);
  run_load(warmup, [](const LoadRecord& record) {
    if (!record.error.empty()) fail(kExitTryAgain, "the first request failed: {}", record.error);
  });

  Progress progress(settings.prompts);
  const LoadResult result = run_load(plan, [&](const LoadRecord& record) { progress.done(record); });
  progress.say_errors();
  const Json line = report(settings, result);
  if (!settings.json && prints_to_terminal())
    print_tables(line);
  else
    Lines({}, false).print(line);
  return line["completed"] == 0 ? kExitTryAgain : kExitOk;
}

}  // namespace kt
