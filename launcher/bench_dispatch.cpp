// `ktmpi bench dispatch`: rows of a layer out to another rank and their sums back, as in serving but with nothing
// computed, and beside it the same bytes by the transport's plain transfers. One JSON line for each shape.

#include <algorithm>
#include <boost/program_options.hpp>
#include <chrono>
#include <nlohmann/json.hpp>
#include <sstream>

#include "launcher/commands.h"
#include "runtime/base/error.h"
#include "runtime/comm/dispatch.h"
#include "runtime/plan/ranks.h"
#include "runtime/rank/job.h"

namespace kt {
namespace {

namespace po = boost::program_options;
using Json = nlohmann::ordered_json;

struct Settings {
  std::string row_list = "1,16,128,512,2048", hidden_list = "2048,4096,7168";
  std::vector<int> rows, hidden;
  int rounds = 50;
  RunConfig run = {};
};

constexpr int kTopK = 8;

po::options_description describe(Settings& s) {
  po::options_description options("Options");
  options.add_options()("rows", po::value(&s.row_list)->value_name("N,...")->default_value(s.row_list),
                        "rows of an order, comma-separated");
  options.add_options()("hidden", po::value(&s.hidden_list)->value_name("N,...")->default_value(s.hidden_list),
                        "width of a row, comma-separated");
  options.add_options()("rounds", po::value(&s.rounds)->value_name("N")->default_value(s.rounds),
                        "round trips of each shape; lines give medians");
  options.add_options()("transport", po::value(&s.run.transport)->value_name("WORD")->default_value(s.run.transport),
                        "auto, mpi or ucx, as for serve");
  options.add_options()("dispatch-dtype",
                        po::value(&s.run.dispatch_dtype)->value_name("WORD")->default_value(s.run.dispatch_dtype),
                        "sums between machines: exact, float32 or bf16, as for serve");
  options.add_options()("help,h", "print this text");
  return options;
}

std::vector<int> numbers(const char* option, const std::string& list, int step, int most) {
  std::vector<int> result;
  std::istringstream words(list);
  for (std::string word; std::getline(words, word, ',');) {
    const bool digits = !word.empty() && word.size() < 9 && word.find_first_not_of("0123456789") == std::string::npos;
    const int n = digits ? std::stoi(word) : 0;
    if (n < 1 || n > most || n % step)
      fail(kExitUsage, "bench dispatch: {}: expected multiples of {} up to {}, comma-separated, found '{}'", option,
           step, most, word);
    result.push_back(n);
  }
  if (result.empty()) fail(kExitUsage, "bench dispatch: {}: expected at least one number", option);
  return result;
}

void require_one_of(const char* option, const std::string& found, std::span<const char* const> words) {
  if (std::find(words.begin(), words.end(), found) == words.end())
    fail(kExitUsage, "bench dispatch: {}: expected {}, found '{}'", option, fmt::join(words, ", "), found);
}

void read_settings(int argc, char** argv, Settings& s) {
  try {
    po::variables_map values;
    const auto style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    po::store(po::command_line_parser(argc, argv).options(describe(s)).style(style).positional({}).run(), values);
    po::notify(values);
  } catch (const po::error& error) {
    fail(kExitUsage, "bench dispatch: {}; ktmpi bench dispatch --help lists the options", error.what());
  }
  s.rows = numbers("rows", s.row_list, 1, 1 << 16);
  s.hidden = numbers("hidden", s.hidden_list, 32, 1 << 16);
  if (s.rounds < 1 || s.rounds > 1 << 20)
    fail(kExitUsage, "bench dispatch: rounds: expected 1 to {}, found {}", 1 << 20, s.rounds);
  require_one_of("transport", s.run.transport, std::array{"auto", "mpi", "ucx"});
  require_one_of("dispatch-dtype", s.run.dispatch_dtype, std::array{"exact", "float32", "bf16"});
}

double ms_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

// Both ranks' view of the shape that is measured. Rank 0 gives orders, rank 1 holds the experts.
struct Trip {
  Transport& transport;
  DispatchShape shape;
  Topology topology = {.rank = transport.rank(),
                       .world = 2,
                       .trunk = {0},
                       .experts = {1},
                       .group_of = {0},
                       .node_of = transport.nodes()};
  std::vector<Team> teams = make_teams(topology, {true});
  NodeMemory memory = share_mailbox(transport, topology, teams, shape);
  std::vector<std::byte> rows = std::vector<std::byte>(out_bytes()), sums = std::vector<std::byte>(back_bytes());
  ThreadPool pool{1};

  bool one_machine() const { return topology.node_of[0] == topology.node_of[1]; }
  size_t out_bytes() const {
    return static_cast<size_t>(shape.rows) * static_cast<size_t>(shape.hidden) * sizeof(bf16);
  }
  size_t back_bytes() const {
    return static_cast<size_t>(shape.rows) * static_cast<size_t>(shape.hidden) *
           wire_bytes(one_machine() ? WireType::float64 : shape.wire);
  }

  // The same bytes there and back, without anything else.
  void plain() {
    const int other = 1 - transport.rank();
    if (transport.rank() == 0) {
      const Ticket back = transport.post_receive(other, Tag::weights, sums);
      const Ticket out = transport.post_send(other, Tag::weights, rows);
      check(finish(transport, back, other), "transfer");
      check(finish(transport, out, other), "transfer");
    } else {
      check(finish(transport, transport.post_receive(other, Tag::weights, rows), other), "transfer");
      check(finish(transport, transport.post_send(other, Tag::weights, sums), other), "transfer");
    }
  }

  bf16 row_value(int row, int column) const { return to_bf16(static_cast<float>((row * 31 + column) % 251) - 125.0f); }
  double sum_of(bf16 x) const { return 2.0 * static_cast<double>(to_float(x)); }  // which no type rounds

  // Rank 0: an order with all rows, and their sums.
  void give(TrunkDispatch& dispatch, bool checks) {
    const TrunkDispatch::Outbox out = dispatch.outbox(0, 0);
    check(out.fault, "dispatch");
    for (int r = 0; checks && r < shape.rows; ++r)
      for (int c = 0; c < shape.hidden; ++c) out.rows[r * shape.row_stride() + c] = row_value(r, c);
    std::fill_n(out.ids, static_cast<size_t>(shape.rows) * kTopK, 0);
    std::fill_n(out.weights, static_cast<size_t>(shape.rows) * kTopK, 1.0f);
    check(dispatch.give(0, {.phase = checks, .rows = shape.rows, .count = shape.rows}).fault, "dispatch");
    for (TrunkDispatch::Sums got; dispatch.next(got);) {
      check(got.fault, "dispatch");
      if (checks) check_sums(got.at);
    }
  }

  void check_sums(const WireSums& got) {
    std::vector<int32_t> all(static_cast<size_t>(shape.rows));
    for (int r = 0; r < shape.rows; ++r) all[static_cast<size_t>(r)] = r;
    std::vector<double> y(static_cast<size_t>(shape.rows) * static_cast<size_t>(shape.hidden));
    add_sums(got, all.data(), shape.rows, shape.hidden, y.data(), shape.hidden, pool);
    for (int r = 0; r < shape.rows; ++r)
      for (int c = 0; c < shape.hidden; ++c)
        if (const double found = y[static_cast<size_t>(r) * static_cast<size_t>(shape.hidden) + static_cast<size_t>(c)];
            found != sum_of(row_value(r, c)))
          fail(kExitPeerLost, "the sum of row {}, column {} is {}, expected {}", r, c, found, sum_of(row_value(r, c)));
  }

  // Rank 1: the next order. Computes where they are checked.
  void answer(ExpertDispatch& dispatch) {
    const ExpertDispatch::Asked asked = dispatch.next();
    check(asked.fault, "dispatch");
    double* to = dispatch.sums(false);
    for (int r = 0; asked.order.phase && r < asked.order.rows; ++r)
      for (int c = 0; c < shape.hidden; ++c)
        to[r * shape.sum_stride() + c] = sum_of(asked.rows[r * shape.row_stride() + c]);
    check(dispatch.give(false, pool).fault, "dispatch");
  }
};

// Both ways in turn, so that whatever else the machine does meets both alike.
void measure(JobRank& job, const Settings& s, const DispatchShape& shape) {
  Trip trip{job.transport, shape};
  std::vector<double> dispatched, plain;
  const auto turns = [&](const std::function<void(bool checks)>& once) {
    once(true);
    for (int i = 0; i < s.rounds; ++i) {
      plain.push_back(ms_of([&] { trip.plain(); }));
      dispatched.push_back(ms_of([&] { once(false); }));
    }
  };
  if (job.rank() == 0) {
    TrunkDispatch dispatch(job.transport, trip.topology, trip.teams, shape, trip.memory);
    turns([&](bool checks) { trip.give(dispatch, checks); });
  } else {
    ExpertDispatch dispatch(job.transport, trip.topology, trip.teams, shape, trip.memory);
    turns([&](bool) { trip.answer(dispatch); });
  }
  job.transport.barrier();
  if (job.rank() != 0) return;
  const double bytes = static_cast<double>(trip.out_bytes() + trip.back_bytes());
  const double ms = median(dispatched), plain_ms = median(plain);
  const Json line = {{"transport", job.transport.name()},
                     {"machines", trip.one_machine() ? 1 : 2},
                     {"rows", shape.rows},
                     {"hidden", shape.hidden},
                     {"out_bytes", trip.out_bytes()},
                     {"back_bytes", trip.back_bytes()},
                     {"ms", ms},
                     {"gb_per_s", bytes / ms / 1e6},
                     {"plain_ms", plain_ms},
                     {"plain_gb_per_s", bytes / plain_ms / 1e6}};
  fmt::print("{}\n", line.dump());
  std::fflush(stdout);
}

int bench_dispatch(const Settings& s, JobRank& job) {
  if (job.transport.size() != 2) {
    if (job.rank() == 0)
      fmt::print(stderr, "ktmpi: bench dispatch: expected 2 ranks, found {}\n", job.transport.size());
    return kExitUsage;
  }
  for (const int hidden : s.hidden)
    for (const int rows : s.rows)
      measure(job, s, {.rows = rows, .hidden = hidden, .top_k = kTopK, .experts = kTopK, .wire = dispatch_type(s.run)});
  return kExitOk;
}

}  // namespace

int bench_dispatch_command(int argc, char** argv) {
  Settings settings;
  const std::vector<std::string_view> arguments(argv, argv + argc);
  for (const std::string_view help : {"--help", "-h"})
    if (std::find(arguments.begin(), arguments.end(), help) != arguments.end()) {
      std::ostringstream text;
      text << describe(settings);
      fmt::print(
          "Usage: mpirun -np 2 ktmpi bench dispatch [OPTION ...] > lines.jsonl\n\n"
          "Times rows of bf16 out to another rank and their sums back, as in serving, and (plain_ms) the same bytes "
          "by\n"
          "plain transfers of the transport. Ranks of one machine share memory; KTMPI_NODE in their environments "
          "keeps\n"
          "them apart.\n\n{}",
          text.str());
      return kExitOk;
    }
  return run_job(
      argc, argv,
      [&] {
        read_settings(argc, argv, settings);
        return settings.run;
      },
      [&](JobRank& job) { return bench_dispatch(settings, job); });
}

}  // namespace kt
