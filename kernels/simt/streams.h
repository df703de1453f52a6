#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/simt/fibers.h"

namespace simt {

// A stream of the emulated device: work in the order in which it came. When it is done, emulation.pace says; when the
// host waits for it at the latest. A program that does not wait where it has to, or writes to memory that is still to
// be copied, is wrong at kLazy, every time the same. One thread at a time may use a stream.
class Queue {
 public:
  virtual ~Queue() = default;
  // Work that others of other streams and processes have to make ready keeps what is behind it waiting. Virtual: in a
  // library that a program has loaded, too, it is the program's.
  virtual void add(std::function<void()> work, std::function<bool()> is_ready = nullptr) {
    const std::lock_guard lock(mutex_);
    work_.push_back({std::move(work), std::move(is_ready)});
    if (emulation.pace == Emulation::Pace::kLazy) return;
    while ((emulation.pace == Emulation::Pace::kEager || random() % 2) && did_first()) {
    }
  }
  // Does what can be done.
  bool is_done() {
    const std::lock_guard lock(mutex_);
    while (did_first()) {
    }
    return work_.empty();
  }
  void finish() {
    while (!is_done()) std::this_thread::yield();
  }

 private:
  struct Work {
    std::function<void()> run;
    std::function<bool()> is_ready;  // null: it is
  };
  // What fails takes what is behind it along.
  bool did_first() {
    if (work_.empty() || (work_.front().is_ready && !work_.front().is_ready())) return false;
    const std::function<void()> run = std::move(work_.front().run);
    work_.pop_front();
    try {
      run();
    } catch (...) {
      work_.clear();
      throw;
    }
    return true;
  }
  uint32_t random() {  // splitmix64
    uint64_t x = (emulation.seed << 32) + ++drawn_ * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u, x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return static_cast<uint32_t>(x >> 32);
  }

  std::mutex mutex_;  // giving memory back does the work of all streams
  std::deque<Work> work_;
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
inline bool is_done(Stream stream) { return !stream || stream->is_done(); }
// But for what waits for others: their streams are of other devices.
inline void finish_all() {
  emulated::Streams& s = emulated::streams();
  const std::lock_guard lock(s.mutex);
  for (const auto& queue : s.all) queue->is_done();
}

}  // namespace simt
