// `ktmpi bench kernels`: expert layers through the kernels that serve them, a line for each number of tokens, against
// limits that are measured in the same run: limit_ms = max(bytes touched / DRAM bandwidth, operations / multiply peak).

#include <unistd.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <sstream>

#include "kernels/buffer.h"
#include "kernels/device.h"
#include "launcher/commands.h"
#include "launcher/layer_output.h"
#include "launcher/lines.h"
#include "runtime/base/error.h"
#include "runtime/comm/machine.h"
#include "runtime/rank/machine_limits.h"
#include "runtime/weights/shares.h"

namespace kt {
namespace {

namespace po = boost::program_options;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string method, layer, layer_output;
  int hidden = 0, inter = 0, experts = 0, top_k = 0, threads = 0;
  std::vector<int> tokens;
  double seconds = 1.0, memory_gb = 0.0;
  bool json = false;
};

const std::vector<Column> kColumns = {
    {.member = "tokens", .width = 6},
    {.member = "ms_median", .title = "ms", .digits = 3, .width = 9},
    {.member = "limit_ms", .digits = 3},
    {.member = "fraction_of_limit", .title = "of limit", .digits = 3},
    {.member = "gbps", .title = "GB/s", .digits = 1},
    {.member = "gflops", .title = "GFLOP/s", .digits = 1, .width = 8},
    {.member = "calls", .width = 5},
};

double rounded(double x, double to) { return std::round(x * to) / to; }

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

Format format_by_name(const std::string& name) {
  for (size_t i = 0; i < std::size(kFormats); ++i)
    if (kFormats[i].name == name) return static_cast<Format>(i);
  fail(kExitUsage, "kt-method {}: expected BF16, FP8, RAWINT4, AMXINT4 or AMXINT8", name);
}

Options parse(int argc, char** argv, bool* help) {
  Options o;
  std::string tokens;
  po::options_description d(
      "ktmpi bench kernels: time expert layers of one shape and format\n\nUsage: ktmpi bench kernels [OPTION "
      "...]\n\nOptions");
  d.add_options()("kt-method", po::value(&o.method)->default_value("BF16"), "BF16, FP8, RAWINT4, AMXINT4, AMXINT8")(
      "hidden", po::value(&o.hidden)->default_value(2048), "width of a token")(
      "inter", po::value(&o.inter)->default_value(512), "intermediate width of an expert")(
      "experts", po::value(&o.experts)->default_value(512), "experts of the layer")(
      "topk", po::value(&o.top_k)->default_value(10), "experts of a token")(
      "tokens", po::value(&tokens)->default_value("1,4,32,256,1024"), "batch sizes, comma-separated")(
      "threads", po::value(&o.threads)->default_value(core_count(read_machine(), allowed_cpus())),
      "threads (default: one for each core)")("seconds", po::value(&o.seconds)->default_value(1.0),
                                              "time for each batch size")(
      "memory-gb", po::value(&o.memory_gb)->default_value(0.0), "memory for experts; 0: 60 % of what is available")(
      "layer", po::value(&o.layer), "instead of timing: a file with one expert and rows in bf16")(
      "layer-output", po::value(&o.layer_output), "the rows that come out of --layer, in float32")(
      "json", po::bool_switch(&o.json), "JSON Lines also on a terminal, where else there is a table")("help,h",
                                                                                                      "this text");
  try {
    po::variables_map map;
    po::store(po::command_line_parser(argc, argv).options(d).positional({}).run(), map);
    po::notify(map);
    *help = map.count("help") > 0;
  } catch (const po::error& e) {
    fail(kExitUsage, "bench kernels: {}", e.what());
  }
  if (*help) {
    std::ostringstream text;
    text << d;
    fmt::print("{}", text.str());
    return o;
  }
  std::istringstream list(tokens);
  for (std::string t; std::getline(list, t, ',');) {
    const int n = std::atoi(t.c_str());
    if (n < 1 || n > 65536) fail(kExitUsage, "tokens: expected numbers from 1 to 65536, found \"{}\"", t);
    o.tokens.push_back(n);
  }
  constexpr int kMost = 1 << 20;
  if (o.hidden > kMost || o.inter > kMost || o.experts > kMost || o.top_k > kMost || o.threads > kMost)
    fail(kExitUsage, "bench kernels: hidden, inter, experts, topk and threads are at most {}", kMost);
  if (o.tokens.empty() || o.hidden < 32 || o.inter < 32 || o.hidden % 32 || o.inter % 32 || o.top_k < 1 ||
      o.experts < o.top_k || o.threads < 1)
    fail(kExitUsage, "bench kernels: hidden and inter must be multiples of 32, 1 <= topk <= experts, threads >= 1");
  if (o.layer.empty() != o.layer_output.empty())
    fail(kExitUsage, "bench kernels: --layer and --layer-output need each other");
  return o;
}

// A layer of experts with distinct memory. The values are arbitrary but finite.
struct Bank {
  std::vector<FfnWeights> experts;
  Buffer memory;
  size_t expert_bytes = 0;
};
FfnWeights expert_shape(const Options& o, Format format) {
  FfnWeights w;
  const int slice_tiles = slice_width(o.inter) / kTileK;
  const int groups = info(format).max_group_tiles;
  w.columns = o.inter;
  w.gate_up = {
      .format = format, .n = static_cast<int>(2 * round_up(o.inter, 2 * kPanel)), .k = o.hidden, .group_tiles = groups};
  w.down = {.format = format, .n = o.hidden, .k = o.inter, .group_tiles = std::min(groups, slice_tiles)};
  return w;
}
Bank make_bank(const Options& o, Format format, int experts, ThreadPool& pool) {
  Bank bank;
  const FfnWeights w = expert_shape(o, format);
  bank.expert_bytes = w.gate_up.bytes() + w.down.bytes();
  bank.memory = Buffer(static_cast<size_t>(experts) * bank.expert_bytes, -1, pool);
  bank.experts.assign(static_cast<size_t>(experts), w);
  pool.run(experts, [&](int64_t e) {
    std::byte* at = bank.memory.bytes() + static_cast<size_t>(e) * bank.expert_bytes;
    uint64_t state = static_cast<uint64_t>(e) * 0x9e3779b97f4a7c15ull + 1;
    for (PackedMatrix* m :
         {&bank.experts[static_cast<size_t>(e)].gate_up, &bank.experts[static_cast<size_t>(e)].down}) {
      m->data = at;
      for (int p = 0; p < m->panels(); ++p) {
        std::byte* panel = at + static_cast<size_t>(p) * m->panel_bytes();
        for (size_t i = 0; i < m->scales_at(); i += 8) {
          state ^= state << 13, state ^= state >> 7, state ^= state << 17;
          // bf16 of about +-0.02, FP8 below 1; any bits do for integers
          const uint64_t word = format == Format::BF16  ? (state & 0x807f807f807f807full) | 0x3c803c803c803c80ull
                                : format == Format::FP8 ? state & 0xb7b7b7b7b7b7b7b7ull
                                                        : state;
          std::memcpy(panel + i, &word, sizeof word);
        }
        if (format == Format::FP8)
          for (int g = 0; g < m->groups(); ++g) {
            const float s = 256.0f * 0.02f;
            std::memcpy(panel + m->scales_at() + static_cast<size_t>(g) * sizeof s, &s, sizeof s);
          }
        else
          for (int g = 0; g < m->groups() * kPanel; ++g) {
            const bf16 s = to_bf16(0.002f);
            std::memcpy(panel + m->scales_at() + static_cast<size_t>(g) * sizeof s, &s, sizeof s);
          }
      }
      at += m->bytes();
    }
  });
  return bank;
}

struct Draw {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  int distinct = 0;
};
Draw draw(const Options& o, int experts, int tokens, std::mt19937_64& random) {
  Draw b;
  std::vector<int32_t> all(static_cast<size_t>(experts));
  std::iota(all.begin(), all.end(), 0);
  std::vector<bool> used(static_cast<size_t>(experts));
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < o.top_k; ++j) {
      std::swap(all[static_cast<size_t>(j)], all[static_cast<size_t>(j) + random() % static_cast<size_t>(experts - j)]);
      b.ids.push_back(all[static_cast<size_t>(j)]);
      b.weights.push_back(1.0f / static_cast<float>(o.top_k));
      used[static_cast<size_t>(all[static_cast<size_t>(j)])] = true;
    }
  b.distinct = static_cast<int>(std::count(used.begin(), used.end(), true));
  return b;
}

size_t memory_for_experts(const Options& o) {
  if (o.memory_gb > 0) return static_cast<size_t>(o.memory_gb * 1e9);
  return static_cast<size_t>(0.6 * static_cast<double>(sysconf(_SC_AVPHYS_PAGES)) *
                             static_cast<double>(sysconf(_SC_PAGESIZE)));
}

}  // namespace

int bench_kernels_command(int argc, char** argv) {
  bool help = false;
  const Options o = parse(argc, argv, &help);
  if (help) return kExitOk;
  const Format format = format_by_name(o.method);
  const Ops& ops = choose_ops();
  std::vector<int> cores = one_per_core_first(read_machine(), allowed_cpus());
  cores.resize(o.threads <= static_cast<int>(cores.size()) ? static_cast<size_t>(o.threads) : 0);
  ThreadPool pool(o.threads, cores);
  const std::unique_ptr<Device> device = make_cpu_device(ops, pool, -1);
  if (!o.layer.empty()) {
    write_layer_output(*device, expert_shape(o, format), o.layer, o.layer_output);
    return kExitOk;
  }

  // As many experts as fit, at least 1 GiB of them so that no cache helps.
  constexpr size_t kSmallestBank = 1ull << 30;
  const size_t expert_bytes = make_bank(o, format, 0, pool).expert_bytes;
  const size_t room = std::max(memory_for_experts(o), kSmallestBank);
  const int fit = static_cast<int>(std::max<size_t>(room / expert_bytes, static_cast<size_t>(o.top_k)));
  const int wanted = std::max(o.experts, static_cast<int>(kSmallestBank / expert_bytes) + 1);
  const int experts = std::min(wanted, fit);
  fmt::print(stderr, "{} kernels, {} threads; making {} experts of {:.1f} MB\n", ops.name, o.threads, experts,
             static_cast<double>(expert_bytes) / 1e6);
  const Bank bank = make_bank(o, format, experts, pool);

  const int most = *std::max_element(o.tokens.begin(), o.tokens.end());
  device->reserve({.experts = {.experts = experts,
                               .top_k = o.top_k,
                               .hidden = o.hidden,
                               .columns = o.inter,
                               .rows = most,
                               .format = format}});
  std::mt19937_64 random(1);
  std::vector<bf16> x(static_cast<size_t>(most) * o.hidden);
  std::normal_distribution<float> normal;
  for (bf16& v : x) v = to_bf16(normal(random));
  std::vector<double> out(static_cast<size_t>(most) * o.hidden);

  const bool table = !o.json && prints_to_terminal();
  if (table)
    fmt::print("{} {} experts of {} x {}, {} a token, {} kernels, {} threads\n\n", o.experts, o.method, o.hidden,
               o.inter, o.top_k, ops.name, o.threads);
  Lines lines(kColumns, table);
  for (int tokens : o.tokens) {
    const double dram = measure_dram(pool, ops, bank.memory),
                 peak = measure_peak(pool, ops, info(format).int8_activations);
    std::vector<double> times, limits, bytes;
    const double flops = 6.0 * o.hidden * o.inter * o.top_k * tokens;
    const auto start = Clock::now();
    for (int call = 0; call < 3 || (seconds_since(start) < o.seconds && call < 2000); ++call) {
      const Draw b = draw(o, experts, tokens, random);
      std::fill(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(tokens) * o.hidden, 0.0);
      const auto begin = Clock::now();
      device->experts({.experts = bank.experts.data(),
                       .slice = slice_width(o.inter),
                       .x = {x.data(), o.hidden, tokens, o.hidden},
                       .routing = {.ids = b.ids, .weights = b.weights, .rows = tokens, .top_k = o.top_k},
                       .y = {out.data(), o.hidden, tokens, o.hidden}});
      if (call == 0) continue;  // warm-up
      times.push_back(seconds_since(begin));
      bytes.push_back(static_cast<double>(b.distinct) * static_cast<double>(bank.expert_bytes));
      limits.push_back(std::max(bytes.back() / dram / 1e9, flops / peak / 1e9));
    }
    const double ms = 1e3 * median(times), limit_ms = 1e3 * median(limits);
    lines.print({{"method", o.method},
                 {"hidden", o.hidden},
                 {"inter", o.inter},
                 {"experts", o.experts},
                 {"topk", o.top_k},
                 {"tokens", tokens},
                 {"threads", o.threads},
                 {"ms_median", rounded(ms, 1e4)},
                 {"gbps", rounded(median(bytes) / ms / 1e6, 100)},
                 {"gflops", rounded(flops / ms / 1e6, 10)},
                 {"dram_gbps", rounded(dram, 100)},
                 {"peak_gflops", rounded(peak, 10)},
                 {"limit_ms", rounded(limit_ms, 1e4)},
                 {"fraction_of_limit", rounded(limit_ms / ms, 1000)},
                 {"experts_real", experts},
                 {"kernels", ops.name},
                 {"calls", times.size()}});
  }
  return kExitOk;
}

}  // namespace kt
