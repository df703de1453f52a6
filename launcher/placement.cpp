// `ktmpi placement`: what a recording of expert use shows, and how often each strategy's hot experts would have been
// hit.

#include <algorithm>
#include <charconv>
#include <numeric>
#include <string>
#include <vector>

#include "launcher/commands.h"
#include "launcher/heat_map.h"
#include "launcher/lines.h"
#include "launcher/replay.h"
#include "runtime/base/error.h"
#include "runtime/config/words.h"
#include "runtime/placement/placement.h"
#include "runtime/recording/counts_file.h"

namespace kt {
namespace {

namespace po = boost::program_options;
using Json = nlohmann::ordered_json;

constexpr std::string_view kSummary =
    "Usage: ktmpi placement FILE [--strategies NAME,...] [--ratio X,...] [--measure OTHER] [--sets] [--png OUT]\n"
    "       [--json]\n\n"
    "Shows how often each expert was chosen, from a file of /dump_expert_distribution_record or of counts, and the\n"
    "share of choices that would have met a hot expert: by strategy, and by the part of all experts that is hot.";

struct Options {
  std::string file, measure, png, strategies, ratios;
  bool sets = false, json = false;
};

bool parse(int argc, char** argv, Options& o) {
  po::options_description d;
  d.add_options()("file", po::value(&o.file)->value_name("FILE")->required(), "the recording");
  d.add_options()("strategies",
                  po::value(&o.strategies)
                      ->value_name("NAMES")
                      ->default_value(fmt::format("{}", fmt::join(placement_strategies(), ","))),
                  "values of kt-expert-placement-strategy");
  d.add_options()("ratio",
                  po::value(&o.ratios)->value_name("X,...")->default_value("0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1"),
                  "values of kt-gpu-experts-ratio");
  d.add_options()("measure", po::value(&o.measure)->value_name("OTHER"),
                  "choose by FILE, but count the hits in this other recording");
  d.add_options()("sets", po::bool_switch(&o.sets), "list the hot experts too");
  d.add_options()("png", po::value(&o.png)->value_name("OUT"), "draw the counts as a heat map");
  d.add_options()("json", po::bool_switch(&o.json), "JSON Lines also on a terminal, where else there is a table");
  return read_options(argc, argv, kSummary, d, po::positional_options_description().add("file", 1)).has_value();
}

std::vector<double> read_ratios(const std::string& text) {
  std::vector<double> ratios;
  for (const std::string_view word : split(text, ',')) {
    double ratio = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), ratio);
    if (error != std::errc() || end != word.data() + word.size() || !(ratio >= 0 && ratio <= 1))
      fail(kExitUsage, "ratio: expected numbers from 0 to 1, found '{}'", word);
    ratios.push_back(ratio);
  }
  return ratios;
}

uint64_t sum(std::span<const uint64_t> numbers) { return std::accumulate(numbers.begin(), numbers.end(), uint64_t{0}); }

double percent(uint64_t part, uint64_t whole) {
  return whole ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

// Choices, experts that were chosen at all, the share of the busiest tenth, and the busiest with theirs.
Json layer_line(size_t layer, std::span<const uint64_t> counts) {
  const uint64_t all = sum(counts);
  Json line = {{"kind", "counts"}, {"layer", layer}, {"choices", all}};
  if (all == 0) return line;
  std::vector<size_t> order(counts.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return counts[a] > counts[b]; });
  uint64_t tenth = 0;
  for (size_t i = 0; i < (order.size() + 9) / 10; ++i) tenth += counts[order[i]];
  line["used"] = std::count_if(counts.begin(), counts.end(), [](uint64_t n) { return n > 0; });
  line["busiest_tenth_percent"] = percent(tenth, all);
  for (size_t i = 0; i < std::min<size_t>(order.size(), 4); ++i) {
    line["busiest_experts"].push_back(order[i]);
    line["busiest_percent"].push_back(percent(counts[order[i]], all));
  }
  return line;
}

void print_counts(const std::string& file, const ExpertCounts& counts, bool table) {
  if (table)
    fmt::print("{}: {} choices in {} layers of {} experts\n\n", file, sum(counts.counts), counts.layers,
               counts.experts);
  Lines lines({{.member = "layer", .width = 5},
               {.member = "choices", .width = 12},
               {.member = "used", .width = 6},
               {.member = "busiest_tenth_percent", .title = "busiest tenth, %", .digits = 1},
               {.member = "busiest_experts", .title = "busiest experts", .width = 18, .left = true},
               {.member = "busiest_percent", .title = "their %", .digits = 1, .left = true}},
              table);
  for (size_t layer = 0; layer < static_cast<size_t>(counts.layers); ++layer)
    lines.print(layer_line(layer, counts.of_layer(layer)));
}

// What the strategies are asked: layers without choices are dense.
class Question {
 public:
  explicit Question(const ExpertCounts& counts) : request_{.experts = counts.experts, .counts = &counts} {
    for (size_t layer = 0; layer < static_cast<size_t>(counts.layers); ++layer)
      request_.moe.push_back(sum(counts.of_layer(layer)) > 0);
  }

  int64_t budget(double ratio) const {
    const auto layers = std::count(request_.moe.begin(), request_.moe.end(), true);
    return hot_budget({}, ratio, static_cast<int>(layers), request_.experts);
  }
  HotSets answer(std::string_view strategy, double ratio) {
    request_.budget = budget(ratio);
    return place(strategy, request_);
  }

 private:
  PlacementRequest request_;
};

void print_hit_rates(Question& question, std::span<const std::string_view> strategies, std::span<const double> ratios,
                     const ExpertCounts& measured, bool table) {
  std::vector<Column> columns = {{.member = "ratio", .width = 5}, {.member = "hot"}};
  for (const std::string_view strategy : strategies) columns.push_back({.member = strategy, .digits = 2, .width = 13});
  Lines lines(columns, table);
  for (const double ratio : ratios) {
    Json line = {{"kind", "hit_percent"}, {"ratio", ratio}, {"hot", question.budget(ratio)}};
    for (const std::string_view strategy : strategies)
      line[std::string(strategy)] = 100.0 * hit_rate(question.answer(strategy, ratio), measured);
    lines.print(line);
  }
}

void print_sets(std::string_view strategy, double ratio, const HotSets& hot, bool table) {
  if (table) fmt::print("\n{} at {:g}:\n", strategy, ratio);
  Lines lines({{.member = "layer", .width = 5}, {.member = "hot_experts", .title = "hot experts", .left = true}},
              table);
  for (size_t layer = 0; layer < hot.size(); ++layer)
    if (!hot[layer].empty())
      lines.print(
          {{"kind", "hot"}, {"strategy", strategy}, {"ratio", ratio}, {"layer", layer}, {"hot_experts", hot[layer]}});
}

void draw(const std::string& file, const ExpertCounts& counts, bool table) {
  write_heat_map(file, counts);
  if (!table) return;
  fmt::print(
      "\n{}: a row for each layer, a cell for each expert, by number and then by use;\n"
      "  black: never chosen, yellow: {:g} times the mean or more\n",
      file, kHottest);
}

}  // namespace

int placement_command(int argc, char** argv) {
  Options o;
  if (!parse(argc, argv, o)) return kExitOk;
  const std::vector<double> ratios = read_ratios(o.ratios);
  const std::vector<std::string_view> strategies = split(o.strategies, ',');
  const std::string& measured_file = o.measure.empty() ? o.file : o.measure;
  const ExpertCounts counts = read_counts(o.file), measured = read_counts(measured_file);
  if (measured.layers != counts.layers || measured.experts != counts.experts)
    fail(kExitUsage, "measure {}: {} layers of {} experts; {} has {} of {}", o.measure, measured.layers,
         measured.experts, o.file, counts.layers, counts.experts);
  Question question(counts);
  for (const std::string_view strategy : strategies) question.answer(strategy, 0);  // refuses before a line is printed

  const bool table = !o.json && prints_to_terminal();
  print_counts(o.file, counts, table);
  if (table) fmt::print("\nhit rate, % of the {} choices in {}:\n\n", sum(measured.counts), measured_file);
  print_hit_rates(question, strategies, ratios, measured, table);
  if (o.sets)
    for (const std::string_view strategy : strategies)
      for (const double ratio : ratios) print_sets(strategy, ratio, question.answer(strategy, ratio), table);
  if (!o.png.empty()) draw(o.png, counts, table);
  return kExitOk;
}

}  // namespace kt
