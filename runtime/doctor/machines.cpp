#include "runtime/doctor/machines.h"

#include <fmt/format.h>
#include <gnu/libc-version.h>
#include <sys/utsname.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "kernels/ops.h"
#include "runtime/base/build_id.h"
#include "runtime/base/error.h"
#include "runtime/comm/rendezvous.h"
#include "runtime/doctor/checks.h"
#include "runtime/doctor/system_files.h"
#include "runtime/rank/measured_rates.h"

namespace kt {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct FactName {
  std::string_view name;
  Severity severity;  // of a difference
  std::string_view advice;
};
constexpr std::string_view kSameLimits =
    "the same limit on all machines; ranks have those of the launcher's service there: sshd, slurmd";
constexpr FactName kFacts[] = {
    {"version", Severity::problem, "the same program on all machines"},
    {"kernels", Severity::problem, "KTMPI_ISA with the lesser of them for all ranks: mpirun -x KTMPI_ISA=..."},
    {"mpi", Severity::problem, "the same MPI on all machines"},
    {"processor", Severity::note, "the slowest one tells the pace"},
    {"cores", Severity::note, "ranks share out work evenly: the fewest tell the pace"},
    {"memory", Severity::note, "ranks share out experts evenly: the least tells what fits"},
    {"huge pages", Severity::note, "the same setting on all machines"},
    {"open files", Severity::note, kSameLimits},
    {"address space", Severity::note, kSameLimits},
    {"locked memory", Severity::note, kSameLimits},
    {"build", Severity::note, "one build on all machines, unless they are meant to differ (GPUs on some)"},
    {"kernel", Severity::note, "nothing while all else is well; one of them where machines behave differently"},
    {"glibc", Severity::note, "nothing while all else is well; one of them where machines behave differently"},
};

// "vm (ranks 0, 1)" of those that say the same.
std::string who(const std::vector<RankReport>& reports, const std::vector<int>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size();) {
    const std::string& host = reports[static_cast<size_t>(ranks[i])].host;
    std::string list;
    int count = 0;
    for (; i < ranks.size() && reports[static_cast<size_t>(ranks[i])].host == host; ++i, ++count)
      list += fmt::format("{}{}", count ? ", " : "", ranks[i]);
    text += fmt::format("{}{} (rank{} {})", text.empty() ? "" : ", ", host, count == 1 ? "" : "s", list);
  }
  return text;
}

// Values and the ranks that have them, if there are several.
std::string differing(const std::vector<RankReport>& reports,
                      const std::function<std::string(const RankReport&)>& value_of) {
  std::vector<std::pair<std::string, std::vector<int>>> values;
  for (const RankReport& report : reports) {
    const std::string value = value_of(report);
    auto same = std::find_if(values.begin(), values.end(), [&](const auto& v) { return v.first == value; });
    if (same == values.end()) same = values.insert(values.end(), {value, {}});
    same->second.push_back(report.rank);
  }
  std::string text;
  if (values.size() < 2) return text;
  for (const auto& [value, ranks] : values)
    text += fmt::format("{}{} on {}", text.empty() ? "" : ", ", value, who(reports, ranks));
  return text;
}

std::map<std::string, int64_t> files_of(const fs::path& folder) {
  std::map<std::string, int64_t> files;
  for (const std::string& name : names_in(folder)) {
    std::error_code error;
    const auto bytes = fs::file_size(folder / name, error);
    if (!error) files[name] = static_cast<int64_t>(bytes);
  }
  return files;
}

// The first file that is not everywhere, or not everywhere of the same size.
Findings differing_files(const std::vector<RankReport>& reports) {
  std::map<std::string, int64_t> all;
  std::vector<int> without;
  for (const RankReport& report : reports) {
    all.insert(report.files.begin(), report.files.end());
    if (report.files.empty()) without.push_back(report.rank);
  }
  if (!without.empty() && !all.empty())
    return {problem(fmt::format("the model's folder is not there, or is empty, on {}", who(reports, without)),
                    "the same files in that folder on every machine")};
  std::string first;
  int count = 0;
  for (const auto& [name, ignored] : all) {
    const std::string found = differing(reports, [&name = name](const RankReport& r) {
      const auto file = r.files.find(name);
      return file == r.files.end() ? std::string("absent") : fmt::format("{} bytes", file->second);
    });
    if (found.empty()) continue;
    if (count++ == 0) first = fmt::format("{}: {}", name, found);
  }
  if (count == 0) return {};
  return {problem(fmt::format("the model's folder: {} of {} files differ, the first is {}", count, all.size(), first),
                  "the same files in that folder on every machine")};
}

std::vector<int> first_ranks(const Transport& transport) {
  std::vector<int> firsts;
  const std::vector<int> nodes = transport.nodes();
  for (int rank = 0; rank < static_cast<int>(nodes.size()); ++rank)
    if (nodes[static_cast<size_t>(rank)] == static_cast<int>(firsts.size())) firsts.push_back(rank);
  return firsts;
}

double system_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

struct Offset {
  double seconds = 0, uncertain = 0;
};

// How far the other rank's clock is ahead of rank 0's: of several echoes the fastest.
Offset clock_offset(Transport& transport, int other) {
  constexpr int kEchoes = 20;
  const bool asks = transport.rank() == 0;
  Offset best{.uncertain = 1e9};
  std::vector<std::byte> inbox;
  for (int i = 0; i < kEchoes; ++i) {
    if (!asks) transport.receive(0, Tag::clock, inbox);
    const double before = system_seconds();
    transport.send(asks ? other : 0, Tag::clock, std::as_bytes(std::span(&before, 1)));
    transport.finish_sends();
    if (!asks) continue;
    transport.receive(other, Tag::clock, inbox);
    const double after = system_seconds();
    double theirs = 0;
    std::memcpy(&theirs, inbox.data(), std::min(inbox.size(), sizeof theirs));
    const Offset offset{theirs - (before + after) / 2, (after - before) / 2};
    if (offset.uncertain < best.uncertain) best = offset;
  }
  return best;
}

Findings check_clocks(Transport& transport) {
  constexpr double kFar = 0.5;
  Findings findings;
  const std::vector<int> firsts = first_ranks(transport);
  double most = 0;
  for (size_t m = 1; m < firsts.size(); ++m) {
    if (transport.rank() != 0 && transport.rank() != firsts[m]) continue;
    const Offset offset = clock_offset(transport, firsts[m]);
    most = std::max(most, std::abs(offset.seconds));
    if (transport.rank() == 0 && std::abs(offset.seconds) > kFar + offset.uncertain)
      findings.push_back(
          note(fmt::format("the clock of rank {}'s machine is {:+.2f} s from rank 0's", firsts[m], offset.seconds),
               "NTP on all machines; logs are hard to compare"));
  }
  if (findings.empty() && transport.rank() == 0)
    findings.push_back(ok(fmt::format("clocks are within {:.1f} ms of rank 0's", most * 1e3)));
  return findings;
}

std::string kernels_name() {
  try {
    return std::string(choose_ops().name);
  } catch (const std::runtime_error& e) {
    return e.what();
  }
}

}  // namespace

Facts facts_of(const Site& site) {
  utsname system{};
  uname(&system);
  const auto total = read_memory_table(site.root / "proc/meminfo")["MemTotal"];
  Facts facts = limits_of(site);
  facts.insert(
      {{"version", site.version},
       {"kernels", kernels_name()},
       {"mpi", site.mpi_library},
       {"processor", read_processor(site.root).name},
       {"cores", std::to_string(site.machine.cores())},
       {"memory", fmt::format("{:.0f} GB", static_cast<double>(total) / 1e9)},
       {"huge pages", chosen_word(read_line(site.root / "sys/kernel/mm/transparent_hugepage/enabled").value_or(""))},
       {"build", build_id()},
       {"kernel", system.release},
       {"glibc", gnu_get_libc_version()}});
  return facts;
}

RankReport make_report(const Site& site, const Transport& transport, Findings findings) {
  return {.rank = transport.rank(),
          .machine = transport.node(),
          .host = host_name(site),
          .facts = facts_of(site),
          .files = site.run.model.empty() ? std::map<std::string, int64_t>() : files_of(site.run.model),
          .findings = std::move(findings)};
}

std::vector<RankReport> gather_reports(Transport& transport, const RankReport& mine) {
  const Json said = {{"machine", mine.machine},
                     {"host", mine.host},
                     {"facts", mine.facts},
                     {"files", mine.files},
                     {"findings", to_json(mine.findings)}};
  // Names of files may be no UTF-8.
  const std::string text = said.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::vector<RankReport> reports;
  for (const std::string& one : all_gather(transport, text)) {
    const Json report = Json::parse(one);
    reports.push_back({.rank = static_cast<int>(reports.size()),
                       .machine = report.at("machine"),
                       .host = report.at("host"),
                       .facts = report.at("facts").get<Facts>(),
                       .files = report.at("files").get<std::map<std::string, int64_t>>(),
                       .findings = findings_of(report.at("findings"))});
  }
  return reports;
}

Findings find_differences(const std::vector<RankReport>& reports) {
  Findings findings;
  std::string alike;
  for (const FactName& fact : kFacts) {
    const std::string name(fact.name);
    const std::string found = differing(reports, [&](const RankReport& r) {
      const auto value = r.facts.find(name);
      return value == r.facts.end() || value->second.empty() ? std::string("unknown") : value->second;
    });
    if (found.empty())
      alike += (alike.empty() ? "" : ", ") + name;
    else
      findings.push_back({fact.severity, name + ": " + found, std::string(fact.advice), {}});
  }
  for (Finding& f : differing_files(reports)) findings.push_back(std::move(f));
  if (reports.size() > 1 && !alike.empty()) findings.insert(findings.begin(), ok("alike on all ranks: " + alike));
  return findings;
}

Findings check_connections(Transport& transport, std::string_view way) {
  Findings findings;
  std::string refusal;
  try {
    meet_at_rank_0(transport);
  } catch (const Error& e) {
    refusal = e.what();
  }
  const std::vector<std::string> refusals = all_gather(transport, refusal);
  const auto first = std::find_if(refusals.begin(), refusals.end(), [](const std::string& r) { return !r.empty(); });
  if (first != refusals.end())
    findings.push_back(problem_of(*first, "open the ports between the machines"));
  else if (transport.size() > 1)
    findings.push_back(ok("every rank reaches rank 0 by TCP"));
  if (first_ranks(transport).size() < 2) return findings;

  const Hardware rates = measure_rates(transport, *available_ops().back());
  const std::string what = fmt::format("messages between rank 0 and another machine, by {}: {:.2f} GB/s, {:.0f} us",
                                       way, rates.network_gbs, rates.network_latency_us);
  if (rates.network_gbs < 0.5)
    findings.push_back(
        note(what, "a faster network, or another interface (OMPI_MCA_btl_tcp_if_include, UCX_NET_DEVICES)"));
  else
    findings.push_back(ok(what));
  for (Finding& f : check_clocks(transport)) findings.push_back(std::move(f));
  return findings;
}

}  // namespace kt
