#include "runtime/comm/group.h"

#include <algorithm>
#include <cstring>

#include "kernels/in_lines.h"

namespace kt {
namespace {

// Part `index` of `parts`, in whole cache lines.
std::span<double> part_of(std::span<double> values, size_t index, size_t parts) {
  const size_t each = static_cast<size_t>(round_up((values.size() + parts - 1) / parts, 8));
  const size_t begin = std::min(index * each, values.size());
  return values.subspan(begin, std::min(each, values.size() - begin));
}

size_t place_in(std::span<const int> ranks, int rank) {
  return static_cast<size_t>(std::find(ranks.begin(), ranks.end(), rank) - ranks.begin());
}

void add(std::span<double> values, const double* others, ThreadPool& pool) {
  in_lines(pool, static_cast<int64_t>(values.size()), kWorthAThread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] += others[i];
  });
}

}  // namespace

bool Group::Members::has(int rank) const { return std::find(ranks.begin(), ranks.end(), rank) != ranks.end(); }

size_t Group::flag_bytes() { return static_cast<size_t>(round_up(sizeof(Flags), 4096)); }

size_t Group::room_bytes(size_t machines, size_t most) {
  if (machines < 2) return 0;
  const std::span<double> all(static_cast<double*>(nullptr), most / sizeof(double));
  return (machines - 1) * part_of(all, 0, machines == 2 ? 1 : machines).size_bytes();
}

NodeMemory Group::share(Transport& transport, const Members& members, size_t bytes) {
  const bool takes_part = members.has(transport.rank()) || members.root == transport.rank();
  return transport.share(takes_part ? flag_bytes() + bytes : 0);
}

Group::Group(Transport& transport, Members members, NodeMemory memory, size_t most)
    : transport_(transport), members_(std::move(members)), memory_(std::move(memory)) {
  const std::vector<int> nodes = transport.nodes();
  const auto node_of = [&](int rank) { return nodes[static_cast<size_t>(rank)]; };
  for (const int rank : members_.ranks) {
    if (node_of(rank) == transport.node()) here_.push_back(rank);
    if (std::none_of(leaders_.begin(), leaders_.end(), [&](int other) { return node_of(other) == node_of(rank); }))
      leaders_.push_back(rank);
  }
  const size_t machines = leaders_.size();
  if (leads()) room_.resize(room_bytes(machines, most));
  receives_.reserve(machines);
  sends_.reserve(machines);
}

void Group::start_again() {
  Flags& mine = flags(transport_.rank());
  for (Flags::Flag* flag : {&mine.arrived, &mine.added, &mine.spread, &mine.given, &mine.taken}) flag->number = 0;
  sums_ = gathers_ = 0;
  receives_.clear();
  sends_.clear();
}

std::span<std::byte> Group::values() const { return memory_.of(transport_.rank()).subspan(flag_bytes()); }

Fault Group::await(std::span<const int> ranks, Flags::Flag Flags::*flag, uint64_t number) {
  size_t seen = 0;  // that have come so far
  const auto all = [&] {
    while (seen < ranks.size() && (flags(ranks[seen]).*flag).number.load(std::memory_order_acquire) >= number) ++seen;
    return seen == ranks.size();
  };
  return transport_.wait_until(all) ? Fault() : Fault{Fault::late, ranks[seen]};
}

Fault Group::sum(std::span<double> values, ThreadPool& pool) {
  if (members_.ranks.size() == 1 || values.empty()) return {};
  const uint64_t number = ++sums_;
  Flags& mine = flags(transport_.rank());
  if (here_.size() > 1) {
    mine.count = values.size();
    mine.offset = reinterpret_cast<std::byte*>(values.data()) - this->values().data();
    transport_.announce(mine.arrived.number, number, here_);
    if (const Fault fault = await(here_, &Flags::arrived, number)) return fault;
    for (const int rank : here_)
      if (flags(rank).count != mine.count || flags(rank).offset != mine.offset) return {Fault::order, rank};
    add_here(values, pool);
    transport_.announce(mine.added.number, number, here_);
    if (const Fault fault = await(here_, &Flags::added, number)) return fault;
  }
  if (leaders_.size() == 1) return {};
  return add_machines(values, pool);
}

// Member i adds part i where all members have it and leaves the sum there, so nobody copies anything.
void Group::add_here(std::span<double> values, ThreadPool& pool) {
  const std::span<double> part = part_of(values, place_in(here_, transport_.rank()), here_.size());
  const auto offset = reinterpret_cast<std::byte*>(part.data()) - this->values().data();
  const auto of = [&](int rank) { return reinterpret_cast<double*>(values_of(rank) + offset); };
  in_lines(pool, static_cast<int64_t>(part.size()), kWorthAThread / 2, [&](int64_t begin, int64_t end) {
    for (const int rank : here_)
      if (const double* other = of(rank); other != part.data())
        for (int64_t i = begin; i < end; ++i) part[static_cast<size_t>(i)] += other[i];
    for (const int rank : here_)
      if (double* other = of(rank); other != part.data())
        std::memcpy(other + begin, &part[static_cast<size_t>(begin)],
                    static_cast<size_t>(end - begin) * sizeof(double));
  });
}

// The first rank of each machine adds over the machines; the others take the sum from it.
Fault Group::add_machines(std::span<double> values, ThreadPool& pool) {
  const uint64_t number = sums_;
  Flags& mine = flags(transport_.rank());
  if (leads()) {
    if (const Fault fault = exchange_parts(values, pool)) return fault;
    if (here_.size() == 1) return {};
    transport_.announce(mine.spread.number, number, here_);
    return await(std::span(here_).subspan(1), &Flags::spread, number);
  }
  if (const Fault fault = await(std::span(here_).first(1), &Flags::spread, number)) return fault;
  const auto* sums = reinterpret_cast<const double*>(values_of(here_[0]) + mine.offset);
  in_lines(pool, static_cast<int64_t>(values.size()), kWorthAThread, [&](int64_t begin, int64_t end) {
    std::memcpy(&values[static_cast<size_t>(begin)], sums + begin, static_cast<size_t>(end - begin) * sizeof(double));
  });
  transport_.announce(mine.spread.number, number, here_);
  return {};
}

// Machine i adds part i of all and gives the sum back, so each value travels twice, whatever their number; two machines
// swap all they have.
Fault Group::exchange_parts(std::span<double> values, ThreadPool& pool) {
  const size_t machines = leaders_.size(), me = place_in(leaders_, transport_.rank());
  const bool swap = machines == 2;
  const std::span<double> own = swap ? values : part_of(values, me, machines);
  const auto part = [&](size_t machine) { return swap ? values : part_of(values, machine, machines); };
  // Everyone starts with its right neighbour, so that no machine is asked by all at once.
  const auto other = [&](size_t d) { return (me + d) % machines; };
  const auto room = [&](size_t d) { return std::span(room_).subspan((d - 1) * own.size_bytes(), own.size_bytes()); };
  const auto finish = [&](std::vector<Ticket>& tickets) -> Fault {
    for (size_t d = 1; d < machines; ++d)
      if (const Fault fault = kt::finish(transport_, tickets[d - 1], leaders_[other(d)])) return fault;
    return {};
  };

  receives_.clear();
  sends_.clear();
  for (size_t d = 1; d < machines; ++d)
    receives_.push_back(transport_.post_receive(leaders_[other(d)], Tag::reduce, room(d)));
  for (size_t d = 1; d < machines; ++d)
    sends_.push_back(transport_.post_send(leaders_[other(d)], Tag::reduce, std::as_bytes(part(other(d)))));
  // The values are being sent while others arrive: they are added to when they are through.
  if (const Fault fault = finish(sends_)) return fault;
  for (size_t d = 1; d < machines; ++d) {
    if (const Fault fault = kt::finish(transport_, receives_[d - 1], leaders_[other(d)])) return fault;
    add(own, reinterpret_cast<const double*>(room(d).data()), pool);
  }
  if (swap) return {};

  receives_.clear();
  sends_.clear();
  for (size_t d = 1; d < machines; ++d)
    receives_.push_back(
        transport_.post_receive(leaders_[other(d)], Tag::reduce, std::as_writable_bytes(part(other(d)))));
  for (size_t d = 1; d < machines; ++d)
    sends_.push_back(transport_.post_send(leaders_[other(d)], Tag::reduce, std::as_bytes(own)));
  if (const Fault fault = finish(receives_)) return fault;
  return finish(sends_);
}

Fault Group::give(const Rows& mine) {
  const uint64_t number = ++gathers_;
  const int root = members_.root;
  if (root == transport_.rank()) return {};
  if (!memory_.of(root).empty()) {
    Flags& own = flags(transport_.rank());
    own.rows = mine;
    own.offset = reinterpret_cast<const std::byte*>(mine.at) - values().data();
    transport_.announce(own.given.number, number, std::span(&root, 1));
    return await(std::span(&root, 1), &Flags::taken, number);
  }
  const size_t row_bytes = static_cast<size_t>(mine.columns) * sizeof(float);
  room_.resize(std::max(room_.size(), row_bytes * static_cast<size_t>(mine.rows)));
  for (int r = 0; r < mine.rows; ++r) std::memcpy(&room_[r * row_bytes], mine.at + r * mine.stride, row_bytes);
  return kt::finish(transport_, transport_.post_send(root, Tag::logits, std::span(room_).first(row_bytes * mine.rows)),
                    root);
}

Fault Group::take(int rows, std::span<const int> columns, const std::function<void(int, const Rows&)>& place) {
  const uint64_t number = ++gathers_;
  for (int i = 0; i < static_cast<int>(members_.ranks.size()); ++i) {
    const int rank = members_.ranks[static_cast<size_t>(i)], width = columns[static_cast<size_t>(i)];
    if (rank == transport_.rank()) continue;
    if (!memory_.of(rank).empty()) {
      if (const Fault fault = await(std::span(&rank, 1), &Flags::given, number)) return fault;
      const Flags& theirs = flags(rank);
      if (theirs.rows.rows != rows || theirs.rows.columns != width) return {Fault::order, rank};
      Rows there = theirs.rows;
      there.at = reinterpret_cast<const float*>(values_of(rank) + theirs.offset);
      place(i, there);
      continue;
    }
    const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(width) * sizeof(float);
    room_.resize(std::max(room_.size(), bytes));
    if (const Fault fault =
            kt::finish(transport_, transport_.post_receive(rank, Tag::logits, std::span(room_).first(bytes)), rank))
      return fault;
    place(i, {.at = reinterpret_cast<const float*>(room_.data()), .stride = width, .rows = rows, .columns = width});
  }
  if (!here_.empty()) transport_.announce(flags(transport_.rank()).taken.number, number, here_);
  return {};
}

}  // namespace kt
