// `ktmpi doctor`: looks at a machine, or at all machines of a job, before the first start or when something is slow.

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>

#include "launcher/commands.h"
#include "launcher/help_text.h"
#include "launcher/own_options.h"
#include "launcher/version.h"
#include "runtime/base/error.h"
#include "runtime/comm/transports.h"
#include "runtime/config/hub_cache.h"
#include "runtime/doctor/checks.h"
#include "runtime/doctor/machines.h"

namespace kt {
namespace {

namespace po = boost::program_options;
using Json = nlohmann::ordered_json;

constexpr std::string_view kHelp =
    "Usage: ktmpi doctor [--model DIR] [--port N] [--json] [OPTION ...]\n"
    "       mpirun -np N ktmpi doctor --cluster [...]\n\n"
    "Looks at what a server needs of this machine and says what it finds, problems last. Changes nothing; takes a few\n"
    "seconds, and 1 GiB of memory or more for one of them.\n\n"
    "  --model DIR  look at a checkpoint too: its files, its memory, its tokenizer, its chat template\n"
    "  --port N     the port to listen on (default 30000)\n"
    "  --cluster    under a launcher: every rank looks at its machine, rank 0 prints each machine once, and where "
    "they\n"
    "               differ\n"
    "  --json       one JSON object instead of lines\n\n"
    "All options of serve are taken, --config FILE among them.\n"
    "Exit codes: 0 no problem, 1 at least one, 2 wrong options.\n";

constexpr int kExitProblem = 1;

struct Area {
  std::string_view name;
  Findings (*look)(const Site&);
  bool of_rank_0 = false;  // in a cluster of its machine alone
  bool of_model = false;
};
constexpr Area kAreas[] = {
    {"kernels", check_kernels},
    {"cores", check_cores},
    {"numa", check_numa},
    {"clock", check_clock},
    {"memory", check_memory},
    {"huge pages", check_huge_pages},
    {"bandwidth", check_bandwidth},
    {"limits", check_limits},
    {"shared memory", check_shared_memory},
    {"mpi", check_mpi},
    {"network", check_network},
    {"gpus", check_gpus},
    {"hugging face", check_hub_cache},
    {.name = "chat engine", .look = check_chat_engine, .of_rank_0 = true},
    {.name = "port", .look = check_port, .of_rank_0 = true},
    {.name = "config", .look = check_config, .of_model = true},
    {.name = "weights", .look = check_files, .of_model = true},
    {.name = "fit", .look = check_fit, .of_model = true},
    {.name = "tokenizer", .look = check_tokenizer, .of_rank_0 = true, .of_model = true},
    {.name = "template", .look = check_template, .of_rank_0 = true, .of_model = true},
};

struct Options {
  RunConfig run;
  bool cluster = false, json = false, help = false;
};

Options read_command(int argc, char** argv) {
  Options o;
  std::string model;
  int port = o.run.port;
  po::options_description known;
  known.add_options()("model", po::value(&model))("port", po::value(&port))("cluster", po::bool_switch(&o.cluster));
  known.add_options()("json", po::bool_switch(&o.json))("help,h", po::bool_switch(&o.help));
  po::variables_map values;
  std::vector<std::string> rest = take_own_options(argc, argv, "doctor", known, values);
  const bool names_model = values.count("model") || std::any_of(rest.begin(), rest.end(), [](const std::string& word) {
                             return word.starts_with("--model") || word.starts_with("--config");
                           });
  // serve's options want a model, the doctor does not.
  if (values.count("model") || (!rest.empty() && !names_model))
    rest.insert(rest.end(), {"--model", names_model ? model : "."});
  const bool asks = !rest.empty();
  if (values.count("port")) rest.insert(rest.end(), {"--port", std::to_string(port)});
  if (asks && !o.help) o.run = with_model_folders(parse_run_config(rest, Intent::plan));
  if (!names_model) o.run.model.clear();
  o.run.port = port != RunConfig().port ? port : o.run.port;
  if (port < 0 || port > 65535) fail(kExitUsage, "--port: expected a whole number from 0 to 65535, found {}", port);
  return o;
}

Findings look(const Area& area, const Site& site) {
  Findings findings;
  try {
    findings = area.look(site);
  } catch (const std::exception& e) {
    findings = {problem_of(fmt::format("could not be looked at: {}", e.what()), "what the message says")};
  }
  for (Finding& f : findings) f.area = area.name;
  return findings;
}

Findings examine(const Site& site, bool is_rank_0) {
  Findings findings;
  for (const Area& area : kAreas) {
    if ((area.of_rank_0 && !is_rank_0) || (area.of_model && site.run.model.empty())) continue;
    const Findings found = look(area, site);
    findings.insert(findings.end(), found.begin(), found.end());
    if (area.look == check_config && has_problem(found)) break;  // what follows needs it
  }
  return findings;
}

// What is printed: a machine, or what is between machines.
struct Section {
  std::string title;
  std::vector<int> ranks;
  Findings findings;
};

std::string plural(size_t n, std::string_view word) { return fmt::format("{} {}{}", n, word, n == 1 ? "" : "s"); }

// What stands at the first machine word for word is not printed again, problems excepted. Their number.
size_t leave_out_what_is_known(const Findings& first, Findings& findings) {
  return std::erase_if(findings, [&](const Finding& f) {
    return f.severity != Severity::problem && std::any_of(first.begin(), first.end(), [&](const Finding& known) {
             return known.severity == f.severity && known.area == f.area && known.found == f.found;
           });
  });
}

void print(const std::vector<Section>& sections, bool json) {
  size_t problems = 0, notes = 0;
  std::string where;  // the problems are
  for (const Section& s : sections) {
    for (const Finding& f : s.findings) {
      problems += f.severity == Severity::problem;
      notes += f.severity == Severity::note;
    }
    if (has_problem(s.findings)) where += (where.empty() ? "" : ", ") + s.title;
  }
  if (json) {
    Json all = {{"version", KTMPI_VERSION}, {"machines", Json::array()}, {"between", Json::array()}};
    for (const Section& s : sections) {
      if (s.ranks.empty())
        all["between"] = to_json(s.findings);
      else
        all["machines"].push_back({{"host", s.title}, {"ranks", s.ranks}, {"findings", to_json(s.findings)}});
    }
    all["problems"] = problems;
    all["notes"] = notes;
    fmt::print("{}\n", all.dump(-1, ' ', false, Json::error_handler_t::replace));
    return;
  }
  fmt::print("ktmpi {}\n", KTMPI_VERSION);
  for (const Section& s : sections) {
    std::string title = s.title;
    if (sections.size() > 1 && !s.ranks.empty())
      title += fmt::format(": rank{} {}", s.ranks.size() == 1 ? "" : "s", fmt::join(s.ranks, ", "));
    Findings findings = s.findings;
    const size_t known = &s == &sections.front() ? 0 : leave_out_what_is_known(sections.front().findings, findings);
    if (known > 0) title += fmt::format("; {} as on {}", plural(known, "finding"), sections.front().title);
    fmt::print("\n{}\n{}", title, to_text(findings));
  }
  if (sections.size() == 1 || where.empty())
    fmt::print("\n{}, {}\n", plural(problems, "problem"), plural(notes, "note"));
  else
    fmt::print("\n{} ({}), {}\n", plural(problems, "problem"), where, plural(notes, "note"));
}

// Problems end all ranks with the same code: each of them has seen all reports.
int print_and_judge(const std::vector<Section>& sections, const Options& o, bool prints) {
  if (prints) print(sections, o.json);
  for (const Section& s : sections)
    if (has_problem(s.findings)) return kExitProblem;
  return kExitOk;
}

// By the transport that ranks would have.
Findings look_between(Transport& transport, std::string_view name) {
  try {
    const std::unique_ptr<Transport> other = make_step_transport(name, transport);
    return other ? check_connections(*other, "UCX") : check_connections(transport, "MPI");
  } catch (const Error& e) {
    return {problem_of(e.what(), "the same options for all ranks")};
  }
}

int examine_cluster(const Options& o, Site site, int* argc, char*** argv) {
  const Launcher launcher = find_launcher(site);
  const std::unique_ptr<Transport> transport =
      launcher.name.empty() ? std::move(make_local_transports(1).front()) : make_mpi_transport(argc, argv);
  const std::vector<int> nodes = transport->nodes();
  const bool is_first = std::find(nodes.begin(), nodes.end(), transport->node()) - nodes.begin() == transport->rank();
  site.machines = *std::max_element(nodes.begin(), nodes.end()) + 1;
  if (transport->size() > 1) site.world = transport->size();

  Findings findings = is_first ? examine(site, transport->rank() == 0) : Findings();
  if (transport->size() == 1 && launcher.ranks > 1) {
    findings.push_back(problem(fmt::format("{} started {} ranks, MPI knows of one", launcher.name, launcher.ranks),
                               "Open MPI's mpirun, or srun --mpi=pmix"));
    findings.back().area = "mpi";
  }
  const std::vector<RankReport> reports = gather_reports(*transport, make_report(site, *transport, findings));
  std::vector<Section> sections(static_cast<size_t>(site.machines));
  for (const RankReport& report : reports) {
    Section& machine = sections[static_cast<size_t>(report.machine)];
    if (machine.ranks.empty()) machine.title = report.host;
    machine.ranks.push_back(report.rank);
    machine.findings.insert(machine.findings.end(), report.findings.begin(), report.findings.end());
  }
  Section between{.title = "between ranks", .findings = find_differences(reports)};
  for (Finding& f : look_between(*transport, o.run.transport)) between.findings.push_back(std::move(f));
  for (Finding& f : between.findings) f.area = "cluster";
  sections.push_back(std::move(between));
  return print_and_judge(sections, o, transport->rank() == 0);
}

}  // namespace

int doctor_command(int argc, char** argv) {
  const Options o = read_command(argc, argv);
  if (o.help) {
    print_help(kHelp);
    return kExitOk;
  }
  Site site = look_around(KTMPI_VERSION, mpi_library());
  site.run = o.run;
  if (o.cluster) return examine_cluster(o, std::move(site), &argc, &argv);
  if (const Launcher launcher = find_launcher(site); launcher.ranks > 1)
    fail(kExitUsage, "doctor: {} started {} ranks of it; --cluster makes one report of them", launcher.name,
         launcher.ranks);
  return print_and_judge({{.title = host_name(site), .ranks = {0}, .findings = examine(site, true)}}, o, true);
}

}  // namespace kt
