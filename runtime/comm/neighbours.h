#pragma once

#include "runtime/comm/doorbell.h"
#include "runtime/comm/transport.h"

namespace kt {

// What transports between processes need inside a machine, made of their messages.

// The ranks of this rank's machine, itself among them, ascending.
std::vector<int> ranks_here(const Transport& transport);

// For Transport::share(): a failure on one rank is one on all of the machine.
NodeMemory share_by_messages(Transport& transport, size_t bytes);

// How long ranks spin, so many of which are on this machine: a spinning rank would keep the rank that it waits for from
// its core where there are too few.
std::chrono::microseconds spin_time(size_t ranks_here);

// A doorbell of every rank of this machine.
class Bells {
 public:
  // Until then nobody rings. All ranks of a machine call it at the same point.
  void hang(Transport& transport);
  Doorbell& mine() { return mine_ != nullptr ? *mine_ : unheard_; }
  // Null: this rank's own, or that of a rank of another machine.
  Doorbell* of(int rank) const {
    auto* bell = reinterpret_cast<Doorbell*>(memory_.of(rank).data());
    return bell == mine_ ? nullptr : bell;
  }

 private:
  Doorbell unheard_;
  Doorbell* mine_ = nullptr;
  NodeMemory memory_;
};

}  // namespace kt
