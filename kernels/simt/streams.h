#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/simt/fibers.h"

namespace simt {

// A stream of the emulated device: work in the order in which it came. When it is done, emulation.pace says; when the
// host waits for it at the latest. A program that does not wait where it has to, or writes to memory that is still to
// be copied, is wrong at kLazy, every time the same. One thread at a time may use a stream.
class Queue {
 public:
  void add(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    work_.push_back(std::move(work));
    if (emulation.pace == Emulation::Pace::kLazy) return;
    while (!work_.empty() && (emulation.pace == Emulation::Pace::kEager || random() % 2)) do_first();
  }
  void finish() {
    const std::lock_guard lock(mutex_);
    while (!work_.empty()) do_first();
  }

 private:
  // What fails takes what is behind it along.
  void do_first() {
    const std::function<void()> work = std::move(work_.front());
    work_.pop_front();
    try {
      work();
    } catch (...) {
      work_.clear();
      throw;
    }
  }
  uint32_t random() {  // splitmix64
    uint64_t x = (emulation.seed << 32) + ++drawn_ * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u, x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return static_cast<uint32_t>(x >> 32);
  }

  std::mutex mutex_;  // giving memory back does the work of all streams
  std::deque<std::function<void()>> work_;
  uint64_t drawn_ = 0;
};
using Stream = Queue*;  // nullptr: all is done at once

namespace emulated {
struct Streams {
  std::mutex mutex;
  std::vector<std::unique_ptr<Queue>> all;
};
inline Streams& streams() {
  static auto* s = new Streams;  // for as long as memory is given back
  return *s;
}
inline void put(Stream stream, std::function<void()> work) { stream ? stream->add(std::move(work)) : work(); }
}  // namespace emulated

inline Stream make_stream() {
  emulated::Streams& s = emulated::streams();
  const std::lock_guard lock(s.mutex);
  return s.all.emplace_back(std::make_unique<Queue>()).get();
}
inline void release_stream(Stream stream) {
  emulated::Streams& s = emulated::streams();
  const std::lock_guard lock(s.mutex);
  std::erase_if(s.all, [&](const auto& q) { return q.get() == stream; });
}
inline void finish(Stream stream) {
  if (stream) stream->finish();
}
inline void finish_all() {
  emulated::Streams& s = emulated::streams();
  const std::lock_guard lock(s.mutex);
  for (const auto& queue : s.all) queue->finish();
}

}  // namespace simt
