#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

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

// A rank's way to the other ranks. One thread at a time may use it (the rank's step thread).
// Waiting spins about 20 us, then yields the core, then sleeps without using CPU until a message is announced.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int node() const = 0;                // index of this rank's machine, 0-based, in order of first rank
  virtual std::vector<int> nodes() const = 0;  // of every rank

  // Starts sending and returns at once. The bytes must stay as they are until finish_sends() returns.
  virtual void send(int to, Tag tag, std::span<const std::byte> bytes) = 0;
  // May wait until large messages are being received: two ranks that send to each other receive first.
  virtual void finish_sends() = 0;
  // Waits for the next message from that rank with that tag; `into` is resized to it (its capacity is reused).
  virtual void receive(int from, Tag tag, std::vector<std::byte>& into) = 0;
  // True if such a message could be received without waiting.
  virtual bool ready(int from, Tag tag) = 0;
  virtual void barrier() = 0;
  // A second way between the same ranks, for one more thread of each: its messages and waits are its own. All ranks
  // call it at the same point and end it before this one, again together. Throws Error(kExitUsage) when MPI cannot
  // serve two threads.
  virtual std::unique_ptr<Transport> lane() = 0;
  // Ends all ranks with that exit code; does not return.
  [[noreturn]] virtual void abort(int exit_code) = 0;
};

// Ranks as threads of this process: element i is for the thread that plays rank i.
std::vector<std::unique_ptr<Transport>> make_local_transports(int size);

// MPI_COMM_WORLD. Initialises MPI; destroying it finalises. Throws Error(kExitTryAgain) when MPI cannot start.
std::unique_ptr<Transport> make_mpi_transport(int* argc, char*** argv);

// Adds `values` of all ranks of `group` (the same list on each) and leaves the sum on each. The values are multiples
// of one grid (kernels/numeric.h), so every order of adding gives the same bits.
void all_reduce_sum(Transport& transport, std::span<const int> group, std::span<double> values);

// What every rank says, by rank; all ranks call it at the same point. For set-up, not for steps.
std::vector<std::string> all_gather(Transport& transport, const std::string& mine);

}  // namespace kt
