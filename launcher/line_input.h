#pragma once

#include <memory>
#include <optional>
#include <string>

namespace kt {

// Lines that a user types, with editing and a history in a terminal; plain lines of stdin otherwise. One at a time.
class LineInput {
 public:
  virtual ~LineInput() = default;
  virtual std::optional<std::string> read() = 0;  // without the line's end; nothing: Ctrl-D, Ctrl-C or the end of input
};

std::unique_ptr<LineInput> plain_lines();
// Throws Error(kExitUsage) if the terminal cannot be used.
std::unique_ptr<LineInput> terminal_lines(std::string prompt);

}  // namespace kt
