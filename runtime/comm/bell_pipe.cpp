#include "runtime/comm/bell_pipe.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/base/error.h"

namespace kt {

BellPipe::BellPipe() {
  int ends[2];
  if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0)
    fail(kExitTryAgain, "a pipe by which ranks of one machine wake each other: {}", std::strerror(errno));
  read_ = ends[0];
  write_ = ends[1];
}

// For reading too, so that a pipe whose owner is gone can still be written to.
BellPipe::BellPipe(std::span<const long, 2> id) {
  const std::string path = fmt::format("/proc/{}/fd/{}", id[0], id[1]);
  write_ = open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (write_ < 0) fail(kExitTryAgain, "the pipe {} by which a rank wants to be woken: {}", path, std::strerror(errno));
}

BellPipe::~BellPipe() {
  if (read_ >= 0) close(read_);
  if (write_ >= 0) close(write_);
}

std::array<long, 2> BellPipe::id() const { return {static_cast<long>(getpid()), static_cast<long>(read_)}; }

// A full pipe wakes as well.
void BellPipe::ring() { [[maybe_unused]] const ssize_t written = write(write_, "", 1); }

void BellPipe::quieten() {
  char bytes[64];
  while (read(read_, bytes, sizeof bytes) > 0) {
  }
}

}  // namespace kt
