#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "runtime/comm/transport.h"

namespace kt {

// A file descriptor that is closed with its owner; -1: none.
class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();
  int fd() const { return fd_; }

 private:
  int fd_;
};

// Connects every rank to rank 0 by TCP: by rank, the socket to that rank, if there is one. All ranks call it at the
// same point. Rank 0 tells its addresses and two secrets over the transport; who does not show the first one is turned
// away, and a rank that is not answered with the second goes on looking. Throws Error(kExitUsage), on rank 0 too, when
// ranks do not find each other in time. Rank 0 listens, until all have come, on the loopback where all are on its
// machine, else on the first of `interfaces` ("eth1,ib0"), or on all networks if none is named.
std::vector<Socket> meet_at_rank_0(Transport& transport, std::string_view interfaces = "");

}  // namespace kt
