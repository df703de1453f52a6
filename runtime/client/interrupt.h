#pragma once

#include <signal.h>

namespace kt {

// While one lives, SIGINT (Ctrl-C) ends what waits in this thread, and nothing else. Only one at a time.
class Interruptible {
 public:
  Interruptible();
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;

  bool happened() const;

 private:
  struct sigaction before_ {};
};

}  // namespace kt
