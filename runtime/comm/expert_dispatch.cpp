#include <algorithm>
#include <exception>

#include "kernels/in_lines.h"
#include "runtime/comm/dispatch.h"

namespace kt {

size_t expert_mail_bytes(const DispatchShape& shape, bool first_of_team, int trunk_ranks, bool other_machines) {
  size_t bytes = Mailbox::bytes(shape, first_of_team, trunk_ranks);
  if (first_of_team && other_machines && shape.wire != WireType::float64)
    bytes += (shape.late ? 2 : 1) * static_cast<size_t>(shape.rows) * static_cast<size_t>(shape.sum_stride()) *
             wire_bytes(shape.wire);
  return bytes;
}

ExpertDispatch::ExpertDispatch(Transport& transport, const Topology& topology, std::span<const Team> teams,
                               const DispatchShape& shape, NodeMemory memory)
    : transport_(transport), shape_(shape), memory_(std::move(memory)), trunk_(topology.trunk) {
  for (const Team& team : teams) {
    const auto found = std::find(team.ranks.begin(), team.ranks.end(), transport.rank());
    if (found == team.ranks.end()) continue;
    team_ = team.ranks;
    me_ = static_cast<size_t>(found - team.ranks.begin());
  }
  const int trunks = static_cast<int>(trunk_.size());
  for (const int rank : team_) mailboxes_.emplace_back(memory_.of(rank), shape_, trunks);
  bool any_far = false;
  for (int i = 0; i < trunks; ++i) {
    const int rank = trunk_[static_cast<size_t>(i)];
    const bool here = topology.node_of[static_cast<size_t>(rank)] == transport.node();
    any_far |= !here;
    if (here) readers_.push_back(rank);
    if (!here && speaks()) far_.push_back({.index = i, .rank = rank});
  }
  if (any_far && !speaks()) readers_.push_back(team_[0]);
  for (Far& far : far_) far.receiving.reserve(8);
  if (far_.empty() || shape.wire == WireType::float64) return;
  for (int late = 0; late <= (shape.late ? 1 : 0); ++late)
    wire_[late].resize(static_cast<size_t>(shape.rows) * static_cast<size_t>(shape.sum_stride()) *
                       wire_bytes(shape.wire));
}

void ExpertDispatch::receive_orders() {
  for (Far& far : far_)
    far.ordered = transport_.post_receive(far.rank, Tag::rows, std::as_writable_bytes(std::span(&far.order, 1)), true);
}

// Straight to where the team reads it.
Fault ExpertDispatch::receive_content(Far& far) {
  if (!fits(far.order, number_, shape_)) return {Fault::order, far.rank};
  const Mailbox::Inbox inbox = mailboxes_[0].inbox(number_);
  const size_t first = static_cast<size_t>(far.order.first), count = static_cast<size_t>(far.order.count),
               top_k = static_cast<size_t>(shape_.top_k), stride = static_cast<size_t>(shape_.row_stride());
  const auto receive = [&](auto* into, size_t values) {
    far.receiving.push_back(
        transport_.post_receive(far.rank, Tag::rows, std::as_writable_bytes(std::span(into, values))));
  };
  if (count) {
    receive(inbox.ids + first * top_k, count * top_k);
    if (far.order.late) receive(inbox.late + first * top_k, count * top_k);
    receive(inbox.weights + first * top_k, count * top_k);
    receive(inbox.rows + first * stride, count * stride);
  }
  if (far.index == 0 && far.order.listed) receive(inbox.listed, static_cast<size_t>(far.order.listed));
  return {};
}

// True once the team has the order of a trunk rank of another machine, or cannot get it.
bool ExpertDispatch::pass_on(Far& far) {
  Mailbox::OrderSlot& slot = mailboxes_[0].inbox(number_).orders[far.index];
  if (slot.given.number.load(std::memory_order_relaxed) == number_ || far_fault_) return true;
  if (far.ordered >= 0) {
    const auto reads = [&](Mailbox& m) { return m.finished().number.load(std::memory_order_acquire) + 2 < number_; };
    if (std::any_of(mailboxes_.begin(), mailboxes_.end(), reads)) return false;
    const Transfer order = transport_.look(far.ordered);
    if (!order.done) return false;
    far.ordered = -1;
    far_fault_ = order.fault ? order.fault : receive_content(far);
  }
  std::erase_if(far.receiving, [&](Ticket ticket) {
    const Transfer content = transport_.look(ticket);
    if (content.fault) far_fault_ = content.fault;
    return content.done;
  });
  if (far_fault_) return true;
  if (!far.receiving.empty()) return false;
  slot.order = far.order;
  transport_.announce(slot.given.number, number_, team_);
  return true;
}

ExpertDispatch::Asked ExpertDispatch::next() {
  transport_.announce(own().finished().number, number_, {});
  ++number_;
  receive_orders();
  const Mailbox::Inbox inbox = mailboxes_[0].inbox(number_);
  size_t given = 0;
  const bool all = transport_.wait_until([&] {
    for (Far& far : far_) pass_on(far);
    while (given < trunk_.size() && inbox.orders[given].given.number.load(std::memory_order_acquire) >= number_)
      ++given;
    return given == trunk_.size() || far_fault_;
  });
  if (far_fault_) return {.fault = far_fault_};
  if (!all) return {.fault = {Fault::late, trunk_[given]}};

  const Order& first = inbox.orders[0].order;
  int32_t count = 0;
  for (size_t i = 0; i < trunk_.size(); ++i) {
    const Order& o = inbox.orders[i].order;
    if (!fits(o, number_, shape_) || o.ask != first.ask || o.layer != first.layer || o.phase != first.phase ||
        o.rows != first.rows || o.late != first.late || o.listed != first.listed || o.first != count)
      return {.fault = {Fault::order, trunk_[i]}};
    count += o.count;
  }
  if (count != first.rows) return {.fault = {Fault::order, trunk_.back()}};
  rows_ = first.rows;
  const size_t pairs = static_cast<size_t>(rows_) * static_cast<size_t>(shape_.top_k);
  Asked asked{.order = first,
              .ids = {inbox.ids, pairs},
              .late = {inbox.late, first.late ? pairs : 0},
              .listed = {inbox.listed, static_cast<size_t>(first.listed)},
              .weights = {inbox.weights, pairs},
              .rows = inbox.rows};
  asked.order.first = 0;
  asked.order.count = rows_;
  for (const std::span<const int32_t> ids : {asked.ids, asked.late, asked.listed})
    for (const int32_t id : ids)
      if (id < -1 || id >= shape_.experts) return {.fault = {Fault::order, trunk_[0]}};
  return asked;
}

ExpertDispatch::~ExpertDispatch() {
  if (std::uncaught_exceptions() > 0) return;  // they may never leave
  for (std::vector<Ticket>& sends : sends_) finish(sends);
}

void ExpertDispatch::finish(std::vector<Ticket>& sends) {
  transport_.wait_until([&] { return all_done(transport_, sends); });
}

double* ExpertDispatch::sums(bool late) {
  finish(sends_[late]);
  return late ? own().late_sums(number_) : own().sums();
}

// Adds the team's sums where this rank's lie, and sends them.
size_t ExpertDispatch::send_far(bool late, ThreadPool& pool) {
  const int64_t stride = shape_.sum_stride();
  double* mine = late ? own().late_sums(number_) : own().sums();
  size_t sent = 0;
  for (const Far& far : far_) {
    const int64_t first = far.order.first * stride, count = far.order.count * stride;
    if (!count) continue;
    in_lines(pool, count, kWorthAThread, [&](int64_t begin, int64_t end) {
      for (size_t m = 1; m < mailboxes_.size(); ++m) {
        const double* other = (late ? mailboxes_[m].late_sums(number_) : mailboxes_[m].sums()) + first;
        for (int64_t i = begin; i < end; ++i) mine[first + i] += other[i];
      }
    });
    std::span<const std::byte> bytes = std::as_bytes(std::span(mine + first, static_cast<size_t>(count)));
    if (shape_.wire != WireType::float64) {
      const size_t one = wire_bytes(shape_.wire);
      std::byte* to = wire_[late].data() + static_cast<size_t>(first) * one;
      to_wire(shape_.wire, mine + first, count, to, pool);
      bytes = {to, static_cast<size_t>(count) * one};
    }
    sends_[late].push_back(transport_.post_send(far.rank, late ? Tag::late : Tag::results, bytes));
    sent += bytes.size();
  }
  return sent;
}

Given ExpertDispatch::give(bool late, ThreadPool& pool) {
  Given given;
  Mailbox::Flag& flag = late ? own().summed_late() : own().summed();
  transport_.announce(flag.number, number_, readers_);
  if (!readers_.empty()) given.bytes = static_cast<size_t>(rows_) * static_cast<size_t>(shape_.hidden) * sizeof(double);
  if (far_.empty()) return given;
  size_t here = 0;  // whose sums are there
  const auto team_done = [&] {
    for (; here < mailboxes_.size(); ++here) {
      const Mailbox::Flag& theirs = late ? mailboxes_[here].summed_late() : mailboxes_[here].summed();
      if (theirs.number.load(std::memory_order_acquire) < number_) return false;
    }
    return true;
  };
  if (!transport_.wait_until(team_done)) return {given.bytes, {Fault::late, team_[here]}};
  finish(sends_[late]);
  given.bytes += send_far(late, pool);
  return given;
}

}  // namespace kt
