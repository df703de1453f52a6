#include "launcher/message_input.h"

#include <fmt/format.h>

#include <cstdio>
#include <string_view>

namespace kt {
namespace {

constexpr std::string_view kQuotes = "\"\"\"", kBlanks = " \t";

// Whether the text ends with """, which is then cut off.
bool cut_quotes(std::string& text) {
  const size_t end = text.find_last_not_of(kBlanks) + 1;
  if (!std::string_view(text).substr(0, end).ends_with(kQuotes)) return false;
  text.resize(end - kQuotes.size());
  return true;
}

// What follows the """ that a line began with, without the line breaks next to the marks. Nothing: it was given up.
std::optional<std::string> read_block(LineInput& lines, std::string text) {
  while (!cut_quotes(text)) {
    const std::optional<Line> line = lines.read("... ");
    if (!line) break;
    if (line->is_interrupted) return std::nullopt;
    text += '\n' + line->text;
  }
  if (text.starts_with('\n')) text.erase(0, 1);
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

}  // namespace

std::optional<Message> read_message(LineInput& lines) {
  bool leaves_next = false;
  while (std::optional<Line> line = lines.read("> ")) {
    if (line->is_interrupted) {
      if (leaves_next && line->text.empty()) return std::nullopt;
      leaves_next = line->text.empty();
      if (leaves_next) fmt::print("Ctrl-C again leaves, and Ctrl-D\n");
      continue;
    }
    leaves_next = false;
    const size_t begin = line->text.find_first_not_of(kBlanks);
    if (line->text.find('\n') != std::string::npos) return Message{std::move(line->text), true};
    if (begin == std::string::npos || !std::string_view(line->text).substr(begin).starts_with(kQuotes))
      return Message{std::move(line->text)};
    if (auto block = read_block(lines, line->text.substr(begin + kQuotes.size()))) return Message{*block, true};
  }
  return std::nullopt;
}

}  // namespace kt
