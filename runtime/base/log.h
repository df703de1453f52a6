#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>
#include <utility>

namespace kt {

// Who writes: "[r3 expert numa1]" stands before each line of this thread and of the threads that it starts with it.
void set_log_name(std::string name);
const std::string& log_name();

// Writes one line to stderr, in one write, with the name of the writer in front.
void log_line(std::string_view line);

template <class... Args>
void log(fmt::format_string<Args...> format, Args&&... args) {
  log_line(fmt::vformat(fmt::string_view(format), fmt::make_format_args(args...)));
}

}  // namespace kt
