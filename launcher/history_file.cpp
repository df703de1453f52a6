#include "launcher/history_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "runtime/client/state_folder.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

std::string to_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    if (c == '\\' || c == '\n') line += '\\';
    line += c == '\n' ? 'n' : c;
  }
  return line + '\n';
}

std::string from_line(std::string_view line) {
  std::string text;
  for (size_t i = 0; i < line.size(); ++i) {
    const bool escaped = line[i] == '\\' && i + 1 < line.size();
    if (escaped) ++i;
    text += escaped && line[i] == 'n' ? '\n' : line[i];
  }
  return text;
}

// For its owner alone, whatever it was before.
bool write_to(const fs::path& file, int mode, std::string_view text) {
  const int descriptor = open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | mode, 0600);
  if (descriptor < 0) return false;
  const bool written =
      fchmod(descriptor, 0600) == 0 && write(descriptor, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  return close(descriptor) == 0 && written;
}

}  // namespace

std::vector<std::string> read_history(const fs::path& file) {
  std::vector<std::string> lines;
  std::ifstream in(file, std::ios::binary);
  for (std::string line; std::getline(in, line);) lines.push_back(from_line(line));
  if (lines.size() <= kHistoryLength) return lines;
  const bool is_long = lines.size() >= 2 * kHistoryLength;
  lines.erase(lines.begin(), lines.end() - kHistoryLength);
  if (!is_long) return lines;

  std::string text;
  for (const std::string& line : lines) text += to_line(line);
  const fs::path fresh = file.string() + ".new";
  if (write_to(fresh, O_TRUNC, text)) rename(fresh.c_str(), file.c_str());
  return lines;
}

bool add_to_history(const fs::path& file, std::string_view text) {
  return make_private_folder(file.parent_path()) && write_to(file, O_APPEND, to_line(text));
}

}  // namespace kt
