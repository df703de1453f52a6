#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "kernels/buffer.h"
#include "kernels/ops.h"
#include "runtime/base/units.h"
#include "runtime/doctor/checks.h"
#include "runtime/doctor/system_files.h"

namespace kt {
namespace {

// What a table needs beyond the one before it, as /proc/cpuinfo calls it.
struct Table {
  std::string_view name, flags;
};
constexpr Table kTables[] = {{"avx2", "avx2 fma"},
                             {"avx512", "avx512f avx512bw avx512dq avx512vl"},
                             {"avx512-vnni", "avx512_vnni"},
                             {"avx512-bf16", "avx512_bf16 avx512vbmi"},
                             {"amx", "amx_bf16 amx_tile amx_int8"}};

// Sapphire Rapids, Emerald Rapids, Granite Rapids: each of them has AMX.
bool is_known_for_amx(const Processor& p) {
  constexpr int64_t kModels[] = {143, 207, 173, 174};
  return p.vendor == "GenuineIntel" && p.family == 6 &&
         std::find(std::begin(kModels), std::end(kModels), p.model) != std::end(kModels);
}

std::vector<std::string> missing_flags(const Processor& processor, const Table& table) {
  std::vector<std::string> missing;
  std::istringstream flags{std::string(table.flags)};
  for (std::string flag; flags >> flag;)
    if (!processor.flags.contains(flag)) missing.push_back(flag);
  return missing;
}

template <class T>
bool contains(const std::vector<T>& list, const T& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

const char* plural(int64_t n) { return n == 1 ? "" : "s"; }

// Where memory is asked for on a node, how much of it is elsewhere.
Findings check_placement(const Site& site) {
  constexpr size_t kBytes = size_t{256} << 20;  // 64 pages are looked at
  std::set<int> nodes;
  for (const Cpu& cpu : site.machine.cpus) nodes.insert(cpu.numa_node);
  ThreadPool pool(1);
  for (const int node : nodes) {
    const Buffer memory(kBytes, node, pool);
    const int64_t misplaced = misplaced_pages(memory, node);
    if (misplaced < 0) return {};  // the system does not tell
    if (misplaced > 0)
      return {note(fmt::format("memory that is asked for on node {} is not all there", node),
                   "in a container allow it (docker run --cap-add SYS_NICE); or free memory of that node")};
  }
  return {ok("memory is where it is asked for")};
}

}  // namespace

Findings kernel_findings(const Processor& processor, const std::vector<std::string>& available,
                         const std::string& chosen) {
  Findings findings;
  std::string best = "ref", here, absent;
  for (const Table& table : kTables) {
    const std::string name(table.name);
    if (contains(available, name)) {
      best = name;
      here += (here.empty() ? "" : ", ") + name;
      continue;
    }
    const std::vector<std::string> missing = missing_flags(processor, table);
    const std::string flags = fmt::format("{}", fmt::join(missing, ", "));
    const bool amx = name == "amx";
    if (amx && missing.empty()) {
      findings.push_back(note("amx is better; the processor has it and the system refuses its tiles to this process",
                              "a kernel from 5.16 on, and a container that may call arch_prctl"));
    } else if (amx && is_known_for_amx(processor) && processor.is_virtual()) {
      findings.push_back(note(fmt::format("amx is better; processors of this model have it, this virtual machine was "
                                          "not given {}",
                                          flags),
                              "a machine type or a hypervisor's processor model with AMX"));
    } else if (amx && is_known_for_amx(processor)) {
      findings.push_back(
          note(fmt::format("amx is better; processors of this model have it, the kernel shows no {}", flags),
               "a kernel from 5.16 on, and AMX switched on in the firmware"));
    } else {
      absent += fmt::format("{}{} (no {})", absent.empty() ? "" : ", ", name, flags);
    }
  }
  if (chosen == best && best != "ref") {
    findings.insert(findings.begin(), ok(fmt::format("{}, the best of {} on {}{}", chosen, here, processor.name,
                                                     absent.empty() ? "" : "; not here: " + absent)));
  } else if (best == "ref") {
    findings.insert(findings.begin(),
                    problem(fmt::format("ref: plain loops, as {} has none of the others: {}", processor.name, absent),
                            "a processor with AVX2; plain loops are for tests"));
  } else {
    findings.insert(findings.begin(), note(fmt::format("{}, as KTMPI_ISA says; {} runs here too", chosen, best),
                                           "unset KTMPI_ISA, if other machines do not need it"));
  }
  return findings;
}

Findings check_kernels(const Site& site) {
  std::vector<std::string> available;
  for (const Ops* ops : available_ops()) available.emplace_back(ops->name);
  try {
    return kernel_findings(read_processor(site.root), available, std::string(choose_ops().name));
  } catch (const std::runtime_error& e) {
    return {problem(e.what(), "KTMPI_ISA with one of these, or without it")};
  }
}

Findings check_cores(const Site& site) {
  const Machine& machine = site.machine;
  const int cores = machine.cores(), threads = static_cast<int>(machine.cpus.size());
  const int left = core_count(machine, site.allowed_cpus);
  const std::string what =
      threads > cores ? fmt::format("{} cores with {} hardware threads; one thread a core is used (threads-per-core)",
                                    cores, threads)
                      : fmt::format("{} core{}, one hardware thread each", cores, plural(cores));
  Findings findings = {ok(what)};
  if (left < cores)
    findings.push_back(note(fmt::format("this process was left {} of {} cores", left, cores),
                            "mpirun --bind-to none, or no taskset: ranks pin their own threads"));
  const auto quota = read_group_cores(site.root);
  if (quota && *quota < left - 0.01)
    findings.push_back(problem(
        fmt::format("the control group gives {:.1f} cores' time for threads on {} cores: all stop when it is used up",
                    *quota, left),
        fmt::format("a higher quota; or as many threads: trunk-threads and kt-cpuinfer, together {}",
                    std::max(1, static_cast<int>(*quota)))));
  double load = 0;
  std::istringstream(read_line(site.root / "proc/loadavg").value_or("0")) >> load;
  if (load > 0.25 * cores)
    findings.push_back(
        note(fmt::format("a load of {:.1f} in the last minute, on {} core{}: other work runs beside ranks", load, cores,
                         plural(cores)),
             "end what else runs; rates measured now are too low"));
  return findings;
}

Findings check_numa(const Site& site) {
  struct Node {
    std::string name;
    int64_t total = 0, free = 0;
  };
  std::vector<Node> nodes;
  const std::filesystem::path folder = site.root / "sys/devices/system/node";
  for (const std::string& name : names_in(folder)) {
    if (!name.starts_with("node") || name.find_first_not_of("0123456789", 4) != std::string::npos) continue;
    auto table = read_memory_table(folder / name / "meminfo");
    nodes.push_back({name, table["MemTotal"], table["MemFree"] + table["FilePages"]});
  }
  if (nodes.empty()) return {ok("the system says nothing of nodes: all memory is taken as one")};
  const auto by_total = [](const Node& a, const Node& b) { return a.total < b.total; };
  const auto [least, most] = std::minmax_element(nodes.begin(), nodes.end(), by_total);
  std::string what = fmt::format("{} node{} with {:.1f} GB", nodes.size(), plural(static_cast<int64_t>(nodes.size())),
                                 gb(most->total));
  if (nodes.size() == 1) return {ok(what)};
  Findings findings;
  if (least->total < most->total / 5 * 4)
    findings.push_back(
        note(fmt::format("{} nodes, {} with {:.1f} GB and {} with {:.1f} GB", nodes.size(), least->name,
                         gb(least->total), most->name, gb(most->total)),
             "memory modules spread evenly; expert ranks take equal parts of each node (kt-numa-nodes)"));
  else
    findings.push_back(ok(what + (least->total < most->total ? " at most each" : " each")));
  for (const Node& node : nodes)
    if (node.total > 0 && node.free < node.total / 2)
      findings.push_back(note(fmt::format("{} has {:.1f} of {:.1f} GB free", node.name, gb(node.free), gb(node.total)),
                              "end what holds memory there, or expert ranks on it go without"));
  if (site.is_here())
    for (Finding& f : check_placement(site)) findings.push_back(std::move(f));
  return findings;
}

Findings check_clock(const Site& site) {
  const std::filesystem::path folder = site.root / "sys/devices/system/cpu";
  std::map<std::string, int> governors;
  std::string driver, preference;
  for (const std::string& name : names_in(folder)) {
    const std::filesystem::path policy = folder / name / "cpufreq";
    const auto governor = read_line(policy / "scaling_governor");
    if (!name.starts_with("cpu") || !governor) continue;
    ++governors[*governor];
    driver = read_line(policy / "scaling_driver").value_or("");
    preference = read_line(policy / "energy_performance_preference").value_or("");
  }
  Findings findings;
  std::string words;
  for (const auto& [name, count] : governors)
    words += fmt::format("{}{} of {} threads", words.empty() ? "" : ", ", name, count);
  // These drivers' powersave follows the load as others' schedutil does; the preference says how eagerly.
  const bool follows = driver.starts_with("intel_pstate") || driver.starts_with("amd-pstate-epp") ||
                       driver.starts_with("amd_pstate_epp");
  if (governors.empty())
    findings.push_back(ok("this system does not set the processors' frequency, as in most virtual machines"));
  else if (governors.contains("powersave") && !follows)
    findings.push_back(problem(fmt::format("governor {} ({}): the lowest frequency", words, driver),
                               "cpupower frequency-set --governor performance"));
  else if (governors.contains("powersave") && (preference == "power" || preference == "balance_power"))
    findings.push_back(note(fmt::format("governor {} ({}), preference {}", words, driver, preference),
                            "cpupower frequency-set --governor performance"));
  else
    findings.push_back(ok(fmt::format("governor {}{}", words, driver.empty() ? "" : " (" + driver + ")")));
  const std::string source =
      read_line(site.root / "sys/devices/system/clocksource/clocksource0/current_clocksource").value_or("");
  if (source == "hpet" || source == "acpi_pm")
    findings.push_back(note(fmt::format("the clock is {}, which is slow to read, and ranks look often", source),
                            "boot with tsc=reliable, if the processor's counter is"));
  return findings;
}

}  // namespace kt
