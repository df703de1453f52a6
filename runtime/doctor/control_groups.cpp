#include <algorithm>
#include <fstream>
#include <sstream>

#include "runtime/doctor/system_files.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kNoLimit = int64_t{1} << 60;  // version 1 writes a very large number

bool contains_word(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

// A control group file system that has the controller: of version 1 by its name, of version 2 always.
struct Mount {
  std::string controller;  // as /proc/self/cgroup has it; "": version 2
  fs::path group, point;   // which group is seen at which folder
};

std::vector<Mount> mounts_of(const fs::path& root, const std::string& controller) {
  std::vector<Mount> mounts;
  std::ifstream in(root / "proc/self/mountinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::string skip, group, point, type, source, options;
    std::istringstream(line) >> skip >> skip >> skip >> group >> point;
    std::istringstream(line.substr(dash + 3)) >> type >> source >> options;
    if (type == "cgroup2") mounts.push_back({"", group, point});
    if (type == "cgroup" && contains_word(options, controller)) mounts.push_back({controller, group, point});
  }
  return mounts;
}

// The path of this process's group in that hierarchy.
std::optional<fs::path> group_in(const fs::path& root, const std::string& controller) {
  std::ifstream in(root / "proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "4:memory:/path" or "0::/path"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    if (controller.empty() ? names.empty() : contains_word(names, controller)) return line.substr(second + 1);
  }
  return std::nullopt;
}

// The folders of this process's group and of those above it, as far as they are mounted.
std::vector<fs::path> group_folders(const fs::path& root, const std::string& controller) {
  std::vector<fs::path> folders;
  for (const Mount& mount : mounts_of(root, controller)) {
    const auto group = group_in(root, mount.controller);
    if (!group) continue;
    fs::path below = group->lexically_relative(mount.group);
    if (below.empty() || *below.begin() == "..") below = ".";  // a name space of its own: it sees itself at the top
    fs::path folder = root / mount.point.relative_path();
    folders.push_back(folder);
    for (const fs::path& part : below)
      if (part != ".") folders.push_back(folder /= part);
  }
  return folders;
}

int64_t droppable(const fs::path& folder, const char* key) {
  std::ifstream in(folder / "memory.stat");
  std::string name;
  for (int64_t bytes = 0; in >> name >> bytes;)
    if (name == key) return bytes;
  return 0;
}

std::optional<GroupMemory> memory_of(const fs::path& folder) {
  const auto group = [&](const char* limit_file, const char* used_file, const char* key) -> std::optional<GroupMemory> {
    const auto limit = read_number(folder / limit_file), used = read_number(folder / used_file);
    if (!limit || !used || *limit >= kNoLimit) return std::nullopt;  // "max" is no number
    return GroupMemory{*limit, std::max<int64_t>(0, *used - droppable(folder, key)), folder};
  };
  if (const auto v2 = group("memory.max", "memory.current", "inactive_file")) return v2;
  return group("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file");
}

std::optional<double> cores_of(const fs::path& folder) {
  int64_t quota = 0, period = 0;
  std::istringstream v2(read_line(folder / "cpu.max").value_or(""));  // "max 100000" or "200000 100000"
  if (!(v2 >> quota >> period)) {
    quota = read_number(folder / "cpu.cfs_quota_us").value_or(-1);
    period = read_number(folder / "cpu.cfs_period_us").value_or(0);
  }
  if (quota <= 0 || period <= 0) return std::nullopt;
  return static_cast<double>(quota) / static_cast<double>(period);
}

}  // namespace

std::optional<GroupMemory> read_group_memory(const fs::path& root) {
  std::optional<GroupMemory> least;
  for (const fs::path& folder : group_folders(root, "memory"))
    if (const auto memory = memory_of(folder); memory && (!least || memory->left() < least->left())) least = memory;
  return least;
}

std::optional<double> read_group_cores(const fs::path& root) {
  std::optional<double> least;
  for (const fs::path& folder : group_folders(root, "cpu"))
    if (const auto cores = cores_of(folder); cores && (!least || *cores < *least)) least = cores;
  return least;
}

}  // namespace kt
