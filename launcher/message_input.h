#pragma once

#include <optional>
#include <string>

#include "launcher/line_input.h"

namespace kt {

struct Message {
  std::string text;
  bool is_literal = false;  // no command, whatever it begins with: it has several lines, or stood between """
};

// What a user wants to say next: a line, several lines that were pasted, or all lines from one that begins with """ to
// one that ends with it. Ctrl-C gives up what was typed; twice with nothing typed it ends the input, as Ctrl-D does.
std::optional<Message> read_message(LineInput& lines);

}  // namespace kt
