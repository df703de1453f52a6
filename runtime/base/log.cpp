#include "runtime/base/log.h"

#include <fmt/chrono.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

// Of the process, as stderr is: a process is at most one rank.
std::atomic<LogLevel> most = LogLevel::info;
std::atomic<bool> as_json = false;
std::mutex mutex;  // guards the two below
int rank = -1;
std::string role = "ktmpi";

constexpr std::string_view kNames[] = {"error", "warn", "info", "debug"};
constexpr char kLetters[] = {'E', 'W', 'I', 'D'};

// RFC 3339 in UTC, so that the lines of several machines can be sorted into one.
std::string time_now() {
  using namespace std::chrono;
  const auto now = floor<milliseconds>(system_clock::now());
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(system_clock::to_time_t(now)),
                     now.time_since_epoch().count() % 1000);
}

void write_line(std::string line) {
  line += '\n';
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

std::string text_line(LogLevel level, std::string_view message) {
  const std::lock_guard lock(mutex);
  const std::string number = rank < 0 ? "" : fmt::format("r{}", rank);
  return fmt::format("{} {} [{}{}{}] {}", time_now(), kLetters[static_cast<size_t>(level)], number,
                     number.empty() || role.empty() ? "" : " ", role, message);
}

std::string json_line(LogLevel level, std::string_view message, std::span<const LogField> fields) {
  Json line = {{"time", time_now()}, {"level", kNames[static_cast<size_t>(level)]}};
  {
    const std::lock_guard lock(mutex);
    if (rank >= 0) line["rank"] = rank;
    if (!role.empty()) line["role"] = role;
  }
  line["message"] = message;
  for (const LogField& field : fields) {
    const std::string* text = std::get_if<std::string>(&field.value);
    if (!text || !text->empty())
      std::visit([&](const auto& value) { line[std::string(field.name)] = value; }, field.value);
  }
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

void set_log_style(LogLevel level, bool json) {
  most = level;
  as_json = json;
}

bool logs(LogLevel level) { return level <= most; }

void set_log_name(int number, std::string what) {
  const std::lock_guard lock(mutex);
  rank = number;
  role = std::move(what);
}

void log_line(LogLevel level, std::string_view message, std::span<const LogField> fields) {
  if (logs(level)) write_line(as_json ? json_line(level, message, fields) : text_line(level, message));
}

void log_failure(std::string_view message) {
  write_line(as_json ? json_line(LogLevel::error, message, {}) : fmt::format("ktmpi: {}", message));
}

}  // namespace kt
