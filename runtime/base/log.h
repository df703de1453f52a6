#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace kt {

enum class LogLevel : uint8_t { error, warn, info, debug };  // the most important first

// Of all lines of this process from here on: those up to `most` are written, as text or each as a JSON object.
void set_log_style(LogLevel most, bool json);
bool logs(LogLevel level);

// Who writes: "[r3 expert numa1]" stands before each line of this process. A rank of -1 is no rank of a job.
void set_log_name(int rank, std::string role);

// What a line says in a form that programs read: members of its JSON object. Text lines leave them out, so that the
// message has to say all. Of texts the empty ones are left out too.
struct LogField {
  std::string_view name;
  std::variant<std::string, int64_t, double> value;
};

// Writes one line to stderr, in one write:
//   2026-11-30T03:10:01.123Z I [r0 scheduler] listening on http://127.0.0.1:30000
//   {"time":"2026-11-30T03:10:01.123Z","level":"info","rank":0,"role":"scheduler","message":"listening on ..."}
void log_line(LogLevel level, std::string_view message, std::span<const LogField> fields = {});

// Why the program ends, with an error code: "ktmpi: ..." without time and writer, or a JSON object like the others.
void log_failure(std::string_view message);

template <class... Args>
void log_at(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (logs(level)) log_line(level, fmt::vformat(fmt::string_view(format), fmt::make_format_args(args...)));
}
template <class... Args>
void log(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::info, format, std::forward<Args>(args)...);
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::warn, format, std::forward<Args>(args)...);
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::error, format, std::forward<Args>(args)...);
}
template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::debug, format, std::forward<Args>(args)...);
}

}  // namespace kt
