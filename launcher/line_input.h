#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// What a user has typed up to the end of a line, or to Ctrl-C. `text` is without the line's end; what was pasted, or
// typed with Alt-Enter, may have several lines.
struct Line {
  bool is_interrupted = false;
  std::string text;
};

// Lines with editing and a history in a terminal; plain lines of stdin otherwise. One LineInput at a time.
class LineInput {
 public:
  virtual ~LineInput() = default;
  virtual std::optional<Line> read(std::string_view prompt) = 0;  // nothing: Ctrl-D on an empty line, the end of input
};

// What may stand in a line instead of what stands there from `from` on.
struct Completions {
  size_t from = 0;
  std::vector<std::string> words;
};

struct TerminalOptions {
  std::filesystem::path history;  // file; "": none is kept
  std::function<Completions(std::string_view before_cursor)> complete;
};

std::unique_ptr<LineInput> plain_lines();
// Keys that are typed between two lines are neither shown nor lost, and Ctrl-C does not end the program while one
// lives. Throws Error(kExitUsage) if the terminal cannot be used.
std::unique_ptr<LineInput> terminal_lines(TerminalOptions options);

}  // namespace kt
