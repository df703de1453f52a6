#include "runtime/comm/mailbox.h"

#include <algorithm>

namespace kt {
namespace {

// Sizes of what follows one another in a part of the mailbox, in bytes.
struct Sizes {
  size_t flags, sums, late_sums;                    // of every rank of a team; of late sums twice
  size_t orders, ids, late, listed, weights, rows;  // of an inbox; a team has two
};

size_t lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

Sizes sizes(const DispatchShape& s, int trunk_ranks) {
  const size_t rows = static_cast<size_t>(s.rows), pairs = rows * static_cast<size_t>(s.top_k);
  const size_t sums = lines(rows * static_cast<size_t>(s.sum_stride()) * sizeof(double));
  return {.flags = 3 * sizeof(Mailbox::Flag),
          .sums = sums,
          .late_sums = s.late ? sums : 0,
          .orders = static_cast<size_t>(trunk_ranks) * sizeof(Mailbox::OrderSlot),
          .ids = lines(pairs * sizeof(int32_t)),
          .late = s.late ? lines(pairs * sizeof(int32_t)) : 0,
          .listed = lines(static_cast<size_t>(s.experts) * sizeof(int32_t)),
          .weights = lines(pairs * sizeof(float)),
          .rows = lines(rows * static_cast<size_t>(s.row_stride()) * sizeof(bf16))};
}

size_t inbox_bytes(const Sizes& s) { return s.orders + s.ids + s.late + s.listed + s.weights + s.rows; }

bool is_trunk(const Topology& topology, int rank) {
  return std::find(topology.trunk.begin(), topology.trunk.end(), rank) != topology.trunk.end();
}

}  // namespace

size_t Mailbox::bytes(const DispatchShape& shape, bool first_of_team, int trunk_ranks) {
  const Sizes s = sizes(shape, trunk_ranks);
  return s.flags + s.sums + 2 * s.late_sums + (first_of_team ? 2 * inbox_bytes(s) : 0);
}

double* Mailbox::sums() const { return reinterpret_cast<double*>(at_ + sizes(*shape_, trunks_).flags); }

double* Mailbox::late_sums(uint64_t number) const {
  const Sizes s = sizes(*shape_, trunks_);
  return reinterpret_cast<double*>(at_ + s.flags + s.sums + number % 2 * s.late_sums);
}

Mailbox::Inbox Mailbox::inbox(uint64_t number) const {
  const Sizes s = sizes(*shape_, trunks_);
  std::byte* at = at_ + s.flags + s.sums + 2 * s.late_sums + number % 2 * inbox_bytes(s);
  const auto take = [&](size_t bytes) {
    at += bytes;
    return at - bytes;
  };
  return {.orders = reinterpret_cast<OrderSlot*>(take(s.orders)),
          .ids = reinterpret_cast<int32_t*>(take(s.ids)),
          .late = reinterpret_cast<int32_t*>(take(s.late)),
          .listed = reinterpret_cast<int32_t*>(take(s.listed)),
          .weights = reinterpret_cast<float*>(take(s.weights)),
          .rows = reinterpret_cast<bf16*>(take(s.rows))};
}

bool fits(const Order& o, uint64_t number, const DispatchShape& shape) {
  return o.number == number && o.rows >= 0 && o.rows <= shape.rows && o.first >= 0 && o.count >= 0 &&
         o.count <= o.rows && o.first <= o.rows - o.count && o.listed >= 0 && o.listed <= shape.experts &&
         (!o.late || shape.late);
}

std::vector<Team> make_teams(const Topology& topology, const std::vector<bool>& holds) {
  std::vector<Team> teams;
  for (size_t i = 0; i < topology.experts.size(); ++i) {
    const int rank = topology.experts[i];
    if (is_trunk(topology, rank)) continue;
    const int group = holds[i] ? topology.group_of[i] : -1;
    const auto mates = std::find_if(teams.begin(), teams.end(), [&](const Team& t) {
      return t.group == group &&
             topology.node_of[static_cast<size_t>(t.ranks[0])] == topology.node_of[static_cast<size_t>(rank)];
    });
    if (mates != teams.end())
      mates->ranks.push_back(rank);
    else
      teams.push_back({group, {rank}});
  }
  return teams;
}

void clear_mailbox(const NodeMemory& memory, int rank, std::span<const Team> teams, const DispatchShape& shape,
                   int trunk_ranks) {
  for (const Team& team : teams) {
    if (std::find(team.ranks.begin(), team.ranks.end(), rank) == team.ranks.end()) continue;
    const Mailbox mine(memory.of(rank), shape, trunk_ranks);
    for (Mailbox::Flag* flag : {&mine.summed(), &mine.summed_late(), &mine.finished()}) flag->number = 0;
    for (const uint64_t number : {0, 1})
      for (int i = 0; rank == team.ranks[0] && i < trunk_ranks; ++i) mine.inbox(number).orders[i].given.number = 0;
  }
}

NodeMemory share_mailbox(Transport& transport, const Topology& topology, std::span<const Team> teams,
                         const DispatchShape& shape) {
  size_t bytes = 0;
  for (const Team& team : teams)
    for (const int rank : team.ranks)
      if (rank == transport.rank())
        bytes = Mailbox::bytes(shape, rank == team.ranks[0], static_cast<int>(topology.trunk.size()));
  return transport.share(bytes);
}

}  // namespace kt
