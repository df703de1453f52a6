#pragma once

#include <array>
#include <span>

namespace kt {

// Wakes another process of this machine that sleeps in poll(): a pipe without a name, which goes with its last process.
// Both constructors throw Error(kExitTryAgain).
class BellPipe {
 public:
  BellPipe();
  explicit BellPipe(std::span<const long, 2> id);  // another process's: `id` is what it was told
  ~BellPipe();
  BellPipe(const BellPipe&) = delete;
  BellPipe& operator=(const BellPipe&) = delete;

  std::array<long, 2> id() const;  // while this object lives
  void ring();
  int fd() const { return read_; }  // readable: it was rung
  void quieten();

 private:
  int read_ = -1, write_ = -1;
};

}  // namespace kt
