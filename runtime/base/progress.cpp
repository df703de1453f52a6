#include "runtime/base/progress.h"

#include <algorithm>
#include <utility>

#include "runtime/base/units.h"

namespace kt {
namespace {

constexpr double kSecondsBetweenLines = 5.0;

std::atomic<size_t> all_bytes{0};

}  // namespace

void log_progress(LogLevel level, std::string_view doing, size_t done, size_t total, double seconds) {
  const double rate = static_cast<double>(done) / seconds;
  const std::string left =
      done ? fmt::format("{:.0f}", static_cast<double>(total - std::min(done, total)) / rate) : "?";
  log_at(level, "{}: {:.1f} of {:.1f} GB, {:.2f} GB/s, {} s left", doing, gb(done), gb(total), rate / 1e9, left);
}

void log_done(std::string_view done, size_t total, double seconds) {
  log("{}: {:.2f} GB in {:.1f} s ({:.2f} GB/s)", done, gb(total), seconds, gb(total) / std::max(seconds, 1e-3));
}

Progress::Progress(std::string doing, std::string done, size_t total_bytes, LogLevel level)
    : doing_(std::move(doing)), done_(std::move(done)), total_(total_bytes), level_(level) {}

void Progress::add(size_t bytes) {
  all_bytes += bytes;
  const size_t done = bytes_ += bytes;
  const double now = seconds();
  double due = next_line_.load();
  if (now < due || !next_line_.compare_exchange_strong(due, now + kSecondsBetweenLines)) return;
  log_progress(level_, doing_, done, total_, now);
}

void Progress::finish() const { log_done(done_, total_, seconds()); }

size_t Progress::bytes_of_all() { return all_bytes; }

double Progress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

}  // namespace kt
