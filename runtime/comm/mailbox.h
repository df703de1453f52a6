#pragma once

#include <vector>

#include "kernels/numeric.h"
#include "kernels/wire.h"
#include "runtime/comm/topology.h"
#include "runtime/comm/transport.h"

namespace kt {

// Expert ranks of one machine with the same experts, of which each computes some columns. They get the same rows.
struct Team {
  int group = -1;          // of experts; -1: they hold none and get no rows
  std::vector<int> ranks;  // the first one speaks with other machines
};
// Of the expert ranks that are no trunk ranks too. `holds`: whether topology.experts[i] has columns of any expert.
std::vector<Team> make_teams(const Topology& topology, const std::vector<bool>& holds);

struct DispatchShape {
  int rows = 0;  // of a step, of all trunk ranks together
  int hidden = 0, top_k = 0;
  int experts = 0;    // of a layer
  bool late = false;  // some sums may come one order later
  WireType wire = WireType::float64;

  int64_t row_stride() const { return round_up(hidden, 32); }  // as kernels read rows, a tile beyond the end
  int64_t sum_stride() const { return round_up(hidden, 16); }  // as they write sums
};

struct Order {
  uint64_t number = 0;                                // of the team's orders, from 1
  int32_t ask = 0, layer = 0, phase = 0, sliced = 0;  // the caller's
  int32_t rows = 0;                                   // of all trunk ranks
  int32_t first = 0, count = 0;                       // the giving trunk rank's rows among them
  int32_t listed = 0;                                 // experts that the order names
  int32_t late = 0;                                   // whether some experts of the rows are late
};

// Whether it is that of this number and stays within the inbox of a team.
bool fits(const Order& order, uint64_t number, const DispatchShape& shape);

// The memory of the mailboxes of this rank's machine; all ranks of all machines call it at the same point.
NodeMemory share_mailbox(Transport& transport, const Topology& topology, std::span<const Team> teams,
                         const DispatchShape& shape);

// This rank's part of it as at first, for dispatches that are made anew.
void clear_mailbox(const NodeMemory& memory, int rank, std::span<const Team> teams, const DispatchShape& shape,
                   int trunk_ranks);

// Where things lie in an expert rank's part of the mailbox.
class Mailbox {
 public:
  struct alignas(64) Flag {
    std::atomic<uint64_t> number;
  };
  struct OrderSlot {  // of one trunk rank
    Flag given;
    alignas(64) Order order;
  };
  struct Inbox {
    OrderSlot* orders;  // by index of the trunk rank
    int32_t *ids, *late, *listed;
    float* weights;  // [rows, top_k], as ids and late; -1: another's
    bf16* rows;      // (rows, row_stride)
  };

  Mailbox() = default;
  // `shape` must outlive it.
  Mailbox(std::span<std::byte> part, const DispatchShape& shape, int trunk_ranks)
      : at_(part.data()), shape_(&shape), trunks_(trunk_ranks) {}
  static size_t bytes(const DispatchShape& shape, bool first_of_team, int trunk_ranks);

  explicit operator bool() const { return at_ != nullptr; }
  Flag& summed() const { return flag(0); }  // sums of that order are there
  Flag& summed_late() const { return flag(1); }
  Flag& finished() const { return flag(2); }  // that order's inbox is not needed any more
  double* sums() const;
  double* late_sums(uint64_t number) const;
  Inbox inbox(uint64_t number) const;  // of a team's first rank

 private:
  Flag& flag(int i) const { return reinterpret_cast<Flag*>(at_)[i]; }

  std::byte* at_ = nullptr;
  const DispatchShape* shape_ = nullptr;
  int trunks_ = 0;
};

}  // namespace kt
