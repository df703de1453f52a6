#pragma once

#include <atomic>
#include <exception>
#include <mutex>

namespace kt {

// Carries the first exception out of code that must not throw, such as the parts of a thread pool's job. After it the
// remaining parts do nothing.
class FirstError {
 public:
  template <class Part>
  void guard(const Part& part) {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      part();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      failed_ = true;
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace kt
