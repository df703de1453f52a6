#include "runtime/comm/joint_progress.h"

#include <condition_variable>
#include <mutex>
#include <string>

#include "runtime/base/progress.h"

namespace kt {
namespace {

size_t sum_over_ranks(Transport& transport, size_t mine) {
  size_t sum = 0;
  for (const std::string& bytes : all_gather(transport, std::to_string(mine))) sum += std::stoull(bytes);
  return sum;
}

// "loading on 3 ranks"
std::string joint(std::string_view word, int ranks) {
  return ranks == 1 ? std::string(word) : fmt::format("{} on {} ranks", word, ranks);
}

}  // namespace

JointProgress::JointProgress(Transport& transport, Lifeline& lifeline, size_t total, std::function<size_t()> done,
                             std::chrono::milliseconds between_lines)
    : transport_(transport), done_(std::move(done)) {
  lifeline.set_pulse([done = done_] { return static_cast<int64_t>(done()); });
  total_ = sum_over_ranks(transport, total);
  if (transport.rank() != 0) return;
  thread_ = std::jthread([this, &lifeline, between_lines](const std::stop_token& stop) {
    std::mutex mutex;
    std::condition_variable_any never;
    std::unique_lock lock(mutex);
    while (never.wait_for(lock, stop, between_lines, [] { return false; }), !stop.stop_requested())
      log_progress(LogLevel::info, joint("loading", transport_.size()), static_cast<size_t>(lifeline.pulse()), total_,
                   seconds());
  });
}

void JointProgress::finish() {
  const double taken = seconds();
  thread_ = {};  // before the other ranks go on, whose pulses are bytes no longer
  const size_t loaded = sum_over_ranks(transport_, done_());
  if (transport_.rank() == 0) log_done(joint("loaded", transport_.size()), loaded, taken);
}

double JointProgress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

}  // namespace kt
