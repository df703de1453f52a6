#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// The texts in which Linux describes a machine. A `root` is "/", or a folder that looks like it. What cannot be read is
// absent: no finding follows from it.

std::optional<std::string> read_text(const std::filesystem::path& file);
std::optional<std::string> read_line(const std::filesystem::path& file);  // the first one
std::optional<int64_t> read_number(const std::filesystem::path& file);

// Lines such as "MemTotal: 24684084 kB" or "Node 0 MemTotal: ...", in bytes.
std::map<std::string, int64_t> read_memory_table(const std::filesystem::path& file);

// "always [madvise] never" -> "madvise"; "" if nothing is chosen.
std::string chosen_word(std::string_view line);

// Of the first processor of /proc/cpuinfo.
struct Processor {
  std::string vendor, name;
  int64_t family = 0, model = 0;
  std::set<std::string> flags;  // that processor and kernel have

  bool is_virtual() const { return flags.contains("hypervisor"); }
};
Processor read_processor(const std::filesystem::path& root);

// A line of /proc/self/limits, by its name ("Max open files"); nothing where it says "unlimited".
struct ProcessLimit {
  std::optional<int64_t> soft, hard;
};
ProcessLimit read_limit(const std::filesystem::path& root, std::string_view name);

// Entries of a folder, by name, sorted; none if there is no such folder.
std::vector<std::string> names_in(const std::filesystem::path& folder);

// The control group of this process, or one above it, that leaves it least memory; of version 1 and 2.
struct GroupMemory {
  int64_t limit = 0, used = 0;  // bytes; used: without what is cached of files and could be dropped
  std::filesystem::path folder;

  int64_t left() const { return limit > used ? limit - used : 0; }
};
std::optional<GroupMemory> read_group_memory(const std::filesystem::path& root);
// Cores' worth of time that its control groups leave to this process.
std::optional<double> read_group_cores(const std::filesystem::path& root);

// A memory module, from SMBIOS.
struct MemoryModule {
  int64_t mega_transfers = 0;  // a second
  int bytes_wide = 0;
};
std::vector<MemoryModule> read_memory_modules(const std::filesystem::path& root);

}  // namespace kt
