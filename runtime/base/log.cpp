#include "runtime/base/log.h"

#include <unistd.h>

namespace kt {
namespace {
thread_local std::string name = "ktmpi";
}

void set_log_name(std::string n) { name = std::move(n); }
const std::string& log_name() { return name; }

void log_line(std::string_view line) {
  const std::string text = fmt::format("[{}] {}\n", name, line);
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace kt
