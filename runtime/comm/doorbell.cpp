#include "runtime/comm/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

namespace kt {

// rings_ and asleep_ are written and read in opposite orders by the two sides, sequentially consistent: either the
// ringer sees the sleeper's flag and wakes it, or the sleeper hears the ring and with it sees the message.

void Doorbell::ring() {
  if (ring_wants_waking()) syscall(SYS_futex, &rings_, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

uint32_t Doorbell::listen() {
  asleep_.store(1);
  return rings_.load();
}

void Doorbell::sleep(uint32_t heard, std::chrono::microseconds limit) {
  const timespec relative{.tv_sec = static_cast<time_t>(limit.count() / 1'000'000),
                          .tv_nsec = static_cast<long>(limit.count() % 1'000'000) * 1000};
  syscall(SYS_futex, &rings_, FUTEX_WAIT, heard, &relative, nullptr, 0);
}

}  // namespace kt
