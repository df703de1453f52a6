#pragma once

#include <functional>
#include <vector>

#include "kernels/thread_pool.h"
#include "runtime/comm/transport.h"

namespace kt {

// Sums and gathers over the trunk ranks. What is added or gathered lies in memory that the ranks of a machine share,
// and is read there by the others; machines exchange it once, between the first ranks of each.
class Group {
 public:
  struct Members {
    std::vector<int> ranks;  // that add; the same list on each
    int root = 0;            // to which they gather; may be none of them
    bool has(int rank) const;
  };
  // Memory of a member for `bytes` of values; all ranks of all machines call it at the same point.
  static NodeMemory share(Transport& transport, const Members& members, size_t bytes);

  // For what comes from other machines, on the first member of each of so many.
  static size_t room_bytes(size_t machines, size_t most);

  // On each member and the root, with the same sizes on all that add. `most`: bytes of the largest sum.
  Group(Transport& transport, Members members, NodeMemory memory, size_t most);

  // After Transport::leave_out, before any of those that remain uses it again: a barrier parts the two. Members and
  // root are among them.
  void start_again();

  // This rank's, in the shared memory.
  std::span<std::byte> values() const;

  // Adds the members' `values` and leaves the sum on each. They lie at one place of everybody's values(). They are
  // multiples of one grid (kernels/numeric.h), so every order of adding gives the same bits.
  Fault sum(std::span<double> values, ThreadPool& pool);

  // Rows of a member that `root` is to see.
  struct Rows {
    const float* at = nullptr;
    int64_t stride = 0;
    int rows = 0, columns = 0;
  };
  // Member's part: `mine` lies in values(). Returns when the root has taken it.
  Fault give(const Rows& mine);
  // The root's part: calls place(index in ranks, rows) for every member but itself. `columns`: of each.
  Fault take(int rows, std::span<const int> columns, const std::function<void(int, const Rows&)>& place);

 private:
  // What a rank tells the others of its machine.
  struct Flags {
    struct alignas(64) Flag {
      std::atomic<uint64_t> number;
    };
    Flag arrived, added, spread, given, taken;
    uint64_t count = 0;  // of the sum
    int64_t offset = 0;  // of what is given, in values()
    Rows rows;
  };
  static size_t flag_bytes();

  Flags& flags(int rank) const { return *reinterpret_cast<Flags*>(memory_.of(rank).data()); }
  std::byte* values_of(int rank) const { return memory_.of(rank).data() + flag_bytes(); }
  bool leads() const { return !here_.empty() && here_.front() == transport_.rank(); }
  Fault await(std::span<const int> ranks, Flags::Flag Flags::*flag, uint64_t number);
  void add_here(std::span<double> values, ThreadPool& pool);
  Fault add_machines(std::span<double> values, ThreadPool& pool);
  Fault exchange_parts(std::span<double> values, ThreadPool& pool);

  Transport& transport_;
  Members members_;
  NodeMemory memory_;
  std::vector<int> here_, leaders_;  // members of this machine; the first one of each machine
  std::vector<std::byte> room_;      // for what comes from other machines
  std::vector<Ticket> receives_, sends_;
  uint64_t sums_ = 0, gathers_ = 0;
};

}  // namespace kt
