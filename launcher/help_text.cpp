#include "launcher/help_text.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "runtime/config/words.h"

namespace kt {
namespace {

// A line that is at least so long was broken because it was full, if it is of prose.
constexpr size_t kFull = 85;

// Narrower descriptions begin on a line of their own.
constexpr size_t kNarrowest = 30;

bool is_prose(std::string_view line) {
  return !line.empty() && line.front() != ' ' && line.front() != '/' && line.find("  ") == line.npos &&
         !line.starts_with("Usage:");
}

// Where a description begins: behind the first gap after what it describes. 0: there is none.
size_t description_of(std::string_view line) {
  const size_t begin = line.find_first_not_of(' ');
  const size_t gap = begin == line.npos ? line.npos : line.find("  ", begin);
  return gap == line.npos ? 0 : line.find_first_not_of(' ', gap);
}

// Adds the words of `text` to what has begun at `column`; further lines begin with `indent` spaces.
void fill(std::string& out, std::string_view text, size_t column, size_t indent, size_t columns) {
  bool first = true;
  for (const std::string_view word : split(text, ' ')) {
    if (word.empty()) continue;
    if (!first && column + 1 + word.size() > columns) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
    } else if (!first) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    first = false;
  }
  out += '\n';
}

void fit_line(std::string& out, std::string_view line, size_t columns) {
  const size_t begin = std::min(line.find_first_not_of(' '), line.size());
  const size_t description = description_of(line);
  if (line.size() <= columns) {
    out += std::string(line) + '\n';
  } else if (description == 0) {
    const size_t indent = std::min(begin, columns - kNarrowest);
    out += std::string(indent, ' ');
    fill(out, line.substr(begin), indent, indent > 8 ? indent : indent + 4, columns);
  } else if (description + kNarrowest <= columns) {
    out += line.substr(0, description);
    fill(out, line.substr(description), description, description, columns);
  } else {
    const size_t indent = begin + 6;
    out += std::string(line.substr(0, line.find_last_not_of(' ', description - 1) + 1)) + '\n';
    out += std::string(indent, ' ');
    fill(out, line.substr(description), indent, indent, columns);
  }
}

}  // namespace

int terminal_width() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

std::string fit(std::string_view text, int columns) {
  constexpr int kTooNarrow = 40;
  if (columns < kTooNarrow) return std::string(text);
  const size_t width = static_cast<size_t>(columns);
  const bool ends = text.ends_with('\n');
  if (ends) text.remove_suffix(1);
  std::string out, paragraph;
  const auto end_paragraph = [&] {
    if (!paragraph.empty()) fill(out, paragraph, 0, 0, width);
    paragraph.clear();
  };
  for (const std::string_view line : split(text, '\n')) {
    if (!is_prose(line)) {
      end_paragraph();
      fit_line(out, line, width);
      continue;
    }
    paragraph += line;
    if (line.size() >= kFull)
      paragraph += ' ';
    else
      end_paragraph();
  }
  end_paragraph();
  if (!ends) out.pop_back();
  return out;
}

void print_help(std::string_view text) { fmt::print("{}", fit(text, terminal_width())); }

}  // namespace kt
