#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/comm/fault.h"
#include "runtime/comm/node_memory.h"

namespace kt {

// What a message is about. Messages between one pair of ranks with one tag arrive in the order they were sent.
enum class Tag : int {
  barrier = 0,
  control = 1,
  rows = 2,
  results = 3,
  reduce = 4,
  logits = 5,
  report = 6,
  weights = 7,
  late = 8,
  clock = 9
};

// A transfer that was posted.
using Ticket = int;
struct Transfer {
  bool done = false;
  Fault fault = {};  // of one that is done
};

// A rank's way to the other ranks: who they are, messages, transfers between posted memory, and memory that the ranks
// of one machine share. One thread at a time may use it (the rank's step thread).
// Waiting spins about 20 us, then yields the core, then sleeps without using CPU until it is woken.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual const char* name() const = 0;  // mpi, ucx or local
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Of every rank: index of its machine, 0-based, in order of first rank; -1: it was left out.
  virtual std::vector<int> nodes() const = 0;
  int node() const { return nodes()[static_cast<size_t>(rank())]; }

  // Messages whose size only the sender knows: for set-up, plans and reports.
  // Starts sending and returns at once. The bytes must stay as they are until finish_sends() returns.
  virtual void send(int to, Tag tag, std::span<const std::byte> bytes) = 0;
  // May wait until large messages are being received: two ranks that send to each other receive first.
  virtual void finish_sends() = 0;
  // Waits for the next message from that rank with that tag; `into` is resized to it (its capacity is reused).
  virtual void receive(int from, Tag tag, std::vector<std::byte>& into) = 0;
  // True if such a message could be received without waiting.
  virtual bool ready(int from, Tag tag) = 0;

  // Transfers between memory of the caller's, which is the transfer's until it is done. Both ranks know the size; one
  // pair's transfers with one tag meet in the order of posting, and do not mix with its messages of other tags.
  virtual Ticket post_send(int to, Tag tag, std::span<const std::byte> bytes) = 0;
  // `idle`: it may be long in coming, so that waiting meanwhile should cost nothing.
  virtual Ticket post_receive(int from, Tag tag, std::span<std::byte> into, bool idle = false) = 0;
  // Moves transfers on. A ticket whose transfer is done is spent.
  virtual Transfer look(Ticket ticket) = 0;

  // Memory of `bytes` for this rank that the others of its machine see too; all ranks of a machine call it at the same
  // point.
  virtual NodeMemory share(size_t bytes) = 0;
  // Sets a flag in such memory, after all that was written to it before, and wakes ranks that may wait for it.
  virtual void announce(std::atomic<uint64_t>& flag, uint64_t value, std::span<const int> to) = 0;
  // Waits until arrived() is true; it may look at flags and transfers. False: given up.
  template <class Arrived>
  bool wait_until(const Arrived& arrived) {
    const auto over = [&] { return interrupted() || arrived(); };
    return wait([](const void* f) { return (*static_cast<decltype(&over)>(f))(); }, &over) && !interrupted();
  }
  // Waits end after so long, as faults do; zero, as at first: never. For tests: a job in service has a watchdog.
  virtual void give_up_after(std::chrono::milliseconds limit) = 0;

  // From any thread: this rank's waits end now as if given up, and all later ones until leave_out().
  void interrupt() {
    interrupted_ = true;
    wake();
  }
  // The others go on without these ranks, which keep their numbers: all of those call it at the same point, after an
  // interrupt() and before any memory of transfers is freed. What was on its way is forgotten: every ticket's transfer
  // is done, with a fault, and no message of before is received. Throws Error(kExitPeerLost) where one more is lost.
  virtual void leave_out(std::span<const int> lost) = 0;

  virtual void barrier() = 0;
  // A second way between the same ranks, for one more thread of each: its messages and waits are its own. All ranks
  // call it at the same point and end it before this one, again together. Throws Error(kExitUsage) when MPI cannot
  // serve two threads.
  virtual std::unique_ptr<Transport> lane() = 0;
  // Ends all ranks with that exit code; does not return.
  [[noreturn]] virtual void abort(int exit_code) = 0;

 protected:
  using Arrived = bool (*)(const void*);
  virtual bool wait(Arrived arrived, const void* argument) = 0;
  virtual void wake() = 0;  // this rank's thread, if it waits; from any thread
  bool interrupted() const { return interrupted_.load(std::memory_order_relaxed); }
  void go_on() { interrupted_ = false; }

 private:
  std::atomic<bool> interrupted_ = false;
};

// Ranks as threads of this process: element i is for the thread that plays rank i. `nodes`: the machines that they
// play; one when it is empty.
std::vector<std::unique_ptr<Transport>> make_local_transports(int size, std::vector<int> nodes = {});

// The largest piece that a message is cut into: MPI counts in int.
inline constexpr size_t kMpiPiece = size_t{1} << 30;

// MPI_COMM_WORLD. Initialises MPI; destroying it finalises. Ranks whose environment has different KTMPI_NODE are on
// different machines, whatever MPI says. Throws Error(kExitTryAgain) when MPI cannot start.
std::unique_ptr<Transport> make_mpi_transport(int* argc, char*** argv, size_t piece = kMpiPiece);

// Over UCX, between the ranks of `job`, by which they find each other and which ends after it. All ranks call it at the
// same point. Throws Error(kExitUsage), on all of them, where UCX does not start on one. Not there in every build; see
// transports.h.
std::unique_ptr<Transport> make_ucx_transport(Transport& job);

// For ranks that end their process and not their transport, since that would wait for others that were left out:
// returns when all have entered, and nobody misses what one that is gone already had sent.
void leave_together(Transport& transport);

// Forgets the transfers that are done; true: none is left.
bool all_done(Transport& transport, std::vector<Ticket>& tickets);

// Waits for a transfer.
Fault finish(Transport& transport, Ticket ticket, int peer);

// The ranks that were not left out, ascending.
std::vector<int> present(const Transport& transport);

// What every rank says, by rank, "" of those left out; all ranks call it at the same point. For set-up, not for steps.
std::vector<std::string> all_gather(Transport& transport, const std::string& mine);

}  // namespace kt
