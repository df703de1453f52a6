#include "runtime/doctor/system_files.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <sstream>

namespace kt {
namespace {

namespace fs = std::filesystem;

std::optional<int64_t> number_of(std::string_view text) {
  int64_t n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  return error == std::errc() && end != text.data() ? std::optional(n) : std::nullopt;
}

// "model name\t: Xeon" -> {"model name", "Xeon"}.
std::pair<std::string, std::string> key_and_value(const std::string& line) {
  const size_t colon = line.find(':');
  if (colon == std::string::npos) return {};
  const size_t end = line.find_last_not_of(" \t", colon - 1);
  const size_t begin = line.find_first_not_of(" \t", colon + 1);
  return {line.substr(0, end + 1), begin == std::string::npos ? "" : line.substr(begin)};
}

}  // namespace

std::optional<std::string> read_text(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return std::nullopt;
  std::string text{std::istreambuf_iterator<char>(in), {}};
  return in.bad() ? std::nullopt : std::optional(std::move(text));
}

std::optional<std::string> read_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  return std::getline(in, line) ? std::optional(line) : std::nullopt;
}

std::optional<int64_t> read_number(const fs::path& file) { return number_of(read_line(file).value_or("")); }

std::map<std::string, int64_t> read_memory_table(const fs::path& file) {
  std::map<std::string, int64_t> table;
  std::istringstream text(read_text(file).value_or(""));
  for (std::string line; std::getline(text, line);) {
    std::string before, key, unit;
    int64_t kib = 0;
    std::istringstream words(line);
    while (words >> key && !key.ends_with(':')) before = key;
    if (words >> kib >> unit && unit == "kB") table[key.substr(0, key.size() - 1)] = kib * 1024;
  }
  return table;
}

std::string chosen_word(std::string_view line) {
  const size_t open = line.find('['), close = line.find(']');
  if (open == line.npos || close == line.npos || close < open) return {};
  return std::string(line.substr(open + 1, close - open - 1));
}

Processor read_processor(const fs::path& root) {
  Processor processor;
  std::ifstream in(root / "proc/cpuinfo");
  for (std::string line; std::getline(in, line) && !line.empty();) {
    const auto [key, value] = key_and_value(line);
    if (key == "vendor_id") processor.vendor = value;
    if (key == "model name") processor.name = value;
    if (key == "cpu family") processor.family = number_of(value).value_or(0);
    if (key == "model") processor.model = number_of(value).value_or(0);
    std::istringstream words(key == "flags" ? value : "");
    processor.flags.insert(std::istream_iterator<std::string>(words), {});
  }
  return processor;
}

ProcessLimit read_limit(const fs::path& root, std::string_view name) {
  ProcessLimit limit;
  std::ifstream in(root / "proc/self/limits");
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(name)) continue;
    std::string soft, hard;
    std::istringstream(line.substr(name.size())) >> soft >> hard;
    limit = {number_of(soft), number_of(hard)};
  }
  return limit;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    names.push_back(at->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<MemoryModule> read_memory_modules(const fs::path& root) {
  constexpr size_t kDataWidth = 0x0a, kSize = 0x0c, kSpeed = 0x15, kConfiguredSpeed = 0x20;
  std::vector<MemoryModule> modules;
  const fs::path entries = root / "sys/firmware/dmi/entries";
  for (const std::string& name : names_in(entries)) {
    if (!name.starts_with("17-")) continue;  // a memory device
    const std::string raw = read_text(entries / name / "raw").value_or("");
    const auto byte = [&](size_t at) { return at < raw.size() ? static_cast<uint8_t>(raw[at]) : 0; };
    const size_t length = byte(1);  // of what the structure has beside its strings
    const auto word = [&](size_t at) { return at + 2 <= length ? byte(at) + 256 * byte(at + 1) : 0; };
    const int speed = word(kConfiguredSpeed) ? word(kConfiguredSpeed) : word(kSpeed), width = word(kDataWidth);
    if (word(kSize) == 0 || speed == 0 || speed == 0xffff || width == 0 || width == 0xffff) continue;
    modules.push_back({speed, width / 8});
  }
  return modules;
}

}  // namespace kt
