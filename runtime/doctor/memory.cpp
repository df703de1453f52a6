#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "kernels/buffer.h"
#include "runtime/base/descriptor.h"
#include "runtime/base/error.h"
#include "runtime/base/units.h"
#include "runtime/comm/node_memory.h"
#include "runtime/doctor/checks.h"
#include "runtime/doctor/system_files.h"
#include "runtime/model/experts/kept_bank.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/serve/http/port.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

double mb(int64_t bytes) { return static_cast<double>(bytes) / 1e6; }

std::optional<int64_t> huge_bytes_of_process(const Site& site) {
  const auto table = read_memory_table(site.root / "proc/self/smaps_rollup");
  const auto found = table.find("AnonHugePages");
  return found == table.end() ? std::nullopt : std::optional(found->second);
}

// As weights are taken.
Findings try_huge_pages(const Site& site) {
  constexpr size_t kBytes = size_t{128} << 20;
  ThreadPool pool(1);
  const auto before = huge_bytes_of_process(site);
  const Buffer memory(kBytes, -1, pool);
  const auto after = huge_bytes_of_process(site);
  if (!before || !after) return {};
  const int64_t granted = *after - *before;
  const std::string what = fmt::format("{:.0f} of {:.0f} MB that were asked for came in huge pages", mb(granted),
                                       mb(static_cast<int64_t>(memory.size())));
  if (granted >= static_cast<int64_t>(kBytes / 10 * 9)) return {ok(what)};
  return {note(what, "echo 1 > /proc/sys/vm/compact_memory, where free memory is in pieces")};
}

// Of keep-bank, in the folder that is usual. A rank that uses one has it locked.
Findings find_kept_banks(const fs::path& folder) {
  int64_t bytes = 0;
  for (const std::string& name : names_in(folder)) {
    if (!name.starts_with(KeptBank::kPrefix)) continue;
    const Descriptor file(open((folder / name).c_str(), O_RDONLY | O_CLOEXEC));
    struct stat status {};
    if (file.fd() >= 0 && flock(file.fd(), LOCK_EX | LOCK_NB) == 0 && fstat(file.fd(), &status) == 0)
      bytes += status.st_size;
  }
  if (bytes == 0) return {};
  return {note(
      fmt::format("/dev/shm has {} of experts that no rank uses; the next start of their job will", size_text(bytes)),
      fmt::format("if there is none to be: rm /dev/shm/{}*", KeptBank::kPrefix))};
}

std::string limit_text(const std::optional<int64_t>& bytes) { return bytes ? size_text(*bytes) : "unlimited"; }

}  // namespace

int64_t memory_left(const Site& site) {
  int64_t left = read_memory_table(site.root / "proc/meminfo")["MemAvailable"];
  if (const auto group = read_group_memory(site.root)) left = std::min(left, group->left());
  if (site.is_here()) left = std::min(left, static_cast<int64_t>(available_memory()));
  return left;
}

Findings check_memory(const Site& site) {
  auto table = read_memory_table(site.root / "proc/meminfo");
  const int64_t total = table["MemTotal"], available = table["MemAvailable"];
  const std::string what = fmt::format("{:.1f} of {:.1f} GB are available", gb(available), gb(total));
  Findings findings;
  if (available < total / 2)
    findings.push_back(note(what, "end what holds the rest, before weights are loaded"));
  else
    findings.push_back(ok(what));
  if (const auto group = read_group_memory(site.root); group && group->limit < total) {
    const std::string limit = fmt::format("the control group {} allows {:.1f} GB, of which {:.1f} GB are left",
                                          group->folder.string(), gb(group->limit), gb(group->left()));
    // The start looks at the topmost group of version 2 alone.
    if (site.is_here() && static_cast<double>(available_memory()) > 1.02 * static_cast<double>(group->left()))
      findings.push_back(
          note(limit + "; the start does not see that limit", "compare it with what doctor --model says, or raise it"));
    else
      findings.push_back(ok(limit));
  }
  const int64_t swapped = table["SwapTotal"] - table["SwapFree"];
  if (swapped > total / 50)
    findings.push_back(note(fmt::format("{:.1f} GB are swapped out", gb(swapped)),
                            "end what does not fit into memory: weights that are swapped out take a disk's time"));
  if (read_number(site.root / "proc/sys/vm/overcommit_memory") == 2)
    findings.push_back(note(fmt::format("the system promises no more memory than {:.1f} GB (vm.overcommit_memory 2), "
                                        "{:.1f} GB are promised",
                                        gb(table["CommitLimit"]), gb(table["Committed_AS"])),
                            "sysctl vm.overcommit_memory=0, if a rank is refused memory"));
  return findings;
}

Findings check_huge_pages(const Site& site) {
  const fs::path folder = site.root / "sys/kernel/mm/transparent_hugepage";
  const std::string mode = chosen_word(read_line(folder / "enabled").value_or(""));
  const std::string shared = chosen_word(read_line(folder / "shmem_enabled").value_or(""));
  if (mode.empty())
    return {note("this kernel has no transparent huge pages", "a kernel with them: weights are read faster")};
  Findings findings;
  if (mode == "never")
    findings.push_back(note("transparent huge pages are switched off (never): weights are read slower",
                            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"));
  else
    findings.push_back(
        ok(fmt::format("transparent huge pages: {}; of shared memory: {}", mode, shared.empty() ? "none" : shared)));
  if (site.is_here() && mode != "never")
    for (Finding& f : try_huge_pages(site)) findings.push_back(std::move(f));
  return findings;
}

std::map<std::string, std::string> limits_of(const Site& site) {
  const auto limit = [&](std::string_view name) { return read_limit(site.root, name); };
  const ProcessLimit files = limit("Max open files");
  return {{"open files", files.hard ? std::to_string(*files.hard) : "unlimited"},
          {"address space", limit_text(limit("Max address space").soft)},
          {"locked memory", limit_text(limit("Max locked memory").soft)}};
}

Findings check_limits(const Site& site) {
  Findings findings;
  const auto limit = [&](std::string_view name) { return read_limit(site.root, name); };
  const ProcessLimit files = limit("Max open files");
  const auto connections = static_cast<int64_t>(most_connections());
  if (files.hard && *files.hard < connections)
    findings.push_back(
        note(fmt::format("at most {} open files: further connections of {} wait", *files.hard, connections),
             fmt::format("ulimit -Hn {}, or LimitNOFILE of the service", 2 * connections)));
  const int64_t total = read_memory_table(site.root / "proc/meminfo")["MemTotal"];
  for (const auto& [name, option] : {std::pair("Max address space", "-v"), std::pair("Max data size", "-d")})
    if (const auto bytes = limit(name).soft; bytes && *bytes < total)
      findings.push_back(problem(fmt::format("{}: {:.1f} GB, of {:.1f} GB of memory", name, gb(*bytes), gb(total)),
                                 fmt::format("ulimit {} unlimited", option)));
  const ProcessLimit locked = limit("Max locked memory");
  const bool rdma = !names_in(site.root / "sys/class/infiniband").empty();
  if (rdma && locked.soft && *locked.soft < total)
    findings.push_back(note(fmt::format("{} may be locked: RDMA wants to lock what it sends", size_text(*locked.soft)),
                            "ulimit -l unlimited, in the launcher's service too"));
  if (findings.empty()) {
    const auto limits = limits_of(site);
    findings.push_back(ok(fmt::format("open files {}, address space {}, locked memory {}", limits.at("open files"),
                                      limits.at("address space"), limits.at("locked memory"))));
  }
  return findings;
}

Findings check_shared_memory(const Site& site) {
  // Open MPI's btl_vader_segment_size, of each rank.
  constexpr int64_t kSegment = int64_t{4} << 20;
  const fs::path folder = site.root / "dev/shm";
  const int64_t ranks = site.machine.numa_nodes() + 1, needed = ranks * kSegment;
  Findings findings;
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (error || access(folder.c_str(), W_OK) != 0) {
    findings.push_back(problem("/dev/shm is not there or cannot be written; Open MPI's ranks of one machine meet there",
                               "mount a tmpfs there"));
  } else {
    const auto there = static_cast<int64_t>(space.available);
    int64_t left_over = 0;
    for (const std::string& name : names_in(folder)) left_over += name.starts_with("vader_segment.");
    const std::string what =
        fmt::format("/dev/shm has {:.0f} MB free; Open MPI takes {:.0f} MB of each rank, here {:.0f} MB for {} ranks",
                    mb(there), mb(kSegment), mb(needed), ranks);
    if (there < needed)
      findings.push_back(problem(what, left_over ? "remove vader_segment.* of jobs that have ended; or a larger one"
                                                 : "a larger one: docker run --shm-size, or mount -o remount,size="));
    else
      findings.push_back(ok(what));
    std::ranges::move(find_kept_banks(folder), std::back_inserter(findings));
  }
  if (!site.is_here()) return findings;
  constexpr size_t kBytes = size_t{2} << 20;
  MemoryFile file(kBytes);
  const MemoryFile same(file.id(), kBytes);
  *static_cast<volatile char*>(file.map().get()) = 1;
  if (*static_cast<volatile char*>(same.map().get()) != 1)
    findings.push_back(problem("two mappings of one memory file differ", "another kernel"));
  else
    findings.push_back(ok("the mailbox needs no room there: it is memory without a name, which two processes can map"));
  return findings;
}

}  // namespace kt
