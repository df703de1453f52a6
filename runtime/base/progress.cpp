#include "runtime/base/progress.h"

#include <algorithm>
#include <utility>

#include "runtime/base/log.h"

namespace kt {
namespace {

constexpr double kSecondsBetweenLines = 5.0;

double gb(size_t bytes) { return static_cast<double>(bytes) / 1e9; }

}  // namespace

Progress::Progress(std::string doing, std::string done, size_t total_bytes)
    : name_(log_name()), doing_(std::move(doing)), done_(std::move(done)), total_(total_bytes) {}

void Progress::add(size_t bytes) {
  const size_t done = bytes_ += bytes;
  const double now = seconds();
  double due = next_line_.load();
  if (now < due || !next_line_.compare_exchange_strong(due, now + kSecondsBetweenLines)) return;
  const double rate = static_cast<double>(done) / now;
  set_log_name(name_);
  log("{}: {:.1f} of {:.1f} GB, {:.2f} GB/s, {:.0f} s left", doing_, gb(done), gb(total_), rate / 1e9,
      static_cast<double>(total_ - std::min(done, total_)) / rate);
}

void Progress::finish() const {
  log("{}: {:.2f} GB in {:.1f} s ({:.2f} GB/s)", done_, gb(total_), seconds(), gb(total_) / std::max(seconds(), 1e-3));
}

double Progress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

}  // namespace kt
