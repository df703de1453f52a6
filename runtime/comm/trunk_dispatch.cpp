#include <algorithm>
#include <exception>

#include "runtime/comm/dispatch.h"

namespace kt {
namespace {

// A team elsewhere gets the content of an order from one block: this rank's rows.
struct Content {
  size_t ids, late, weights, rows, listed, bytes;  // where each begins
};

Content content_of(const DispatchShape& s, size_t rows) {
  const auto line = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  const size_t pairs = rows * static_cast<size_t>(s.top_k);
  Content c{};
  c.late = c.ids + line(pairs * sizeof(int32_t));
  c.weights = c.late + (s.late ? line(pairs * sizeof(int32_t)) : 0);
  c.rows = c.weights + line(pairs * sizeof(float));
  c.listed = c.rows + line(rows * static_cast<size_t>(s.row_stride()) * sizeof(bf16));
  c.bytes = c.listed + line(static_cast<size_t>(s.experts) * sizeof(int32_t));
  return c;
}

// The most rows that one trunk rank sends.
size_t share_rows(const DispatchShape& s, int trunk_ranks) {
  return static_cast<size_t>(ceil_div(s.rows, trunk_ranks));
}

size_t far_sum_bytes(const DispatchShape& s, size_t rows) {
  return rows * static_cast<size_t>(s.sum_stride()) * wire_bytes(s.wire);
}

}  // namespace

size_t trunk_mail_bytes(const DispatchShape& shape, int trunk_ranks, int teams_elsewhere) {
  const size_t rows = share_rows(shape, trunk_ranks);
  return static_cast<size_t>(teams_elsewhere) *
         (content_of(shape, rows).bytes + (shape.late ? 3 : 1) * far_sum_bytes(shape, rows));
}

TrunkDispatch::TrunkDispatch(Transport& transport, const Topology& topology, std::vector<Team> teams,
                             const DispatchShape& shape, NodeMemory memory)
    : transport_(transport),
      teams_(std::move(teams)),
      shape_(shape),
      memory_(std::move(memory)),
      index_(topology.trunk_index()),
      trunks_(static_cast<int>(topology.trunk.size())) {
  const size_t rows = share_rows(shape, trunks_);
  size_t most_due = 0;
  for (const Team& team : teams_) {
    Way& way = ways_.emplace_back();
    most_due += 2 * team.ranks.size();
    if (topology.node_of[static_cast<size_t>(team.ranks[0])] == transport.node()) {
      for (const int rank : team.ranks) way.mailboxes.emplace_back(memory_.of(rank), shape_, trunks_);
      continue;
    }
    way.content.resize(content_of(shape, rows).bytes);
    way.sums.resize(far_sum_bytes(shape, rows));
    if (shape.late)
      for (auto& sums : way.late_sums) sums.resize(far_sum_bytes(shape, rows));
    way.sends.reserve(8);
  }
  due_.reserve(most_due);
}

TrunkDispatch::~TrunkDispatch() {
  if (std::uncaught_exceptions() > 0) return;  // they may never leave
  for (Way& way : ways_) transport_.wait_until([&] { return all_done(transport_, way.sends); });
}

// The inbox of the order before last has been read, or what was sent has left.
Fault TrunkDispatch::make_room(size_t team) {
  Way& way = ways_[team];
  size_t free = 0;
  const auto read = [&] {
    for (; free < way.mailboxes.size(); ++free)
      if (way.mailboxes[free].finished().number.load(std::memory_order_acquire) + 1 < way.number) return false;
    return true;
  };
  if (way.here()) return transport_.wait_until(read) ? Fault() : Fault{Fault::late, teams_[team].ranks[free]};
  const bool left = transport_.wait_until([&] { return all_done(transport_, way.sends); });
  return left ? Fault() : Fault{Fault::late, teams_[team].ranks[0]};
}

TrunkDispatch::Outbox TrunkDispatch::outbox(size_t team, int first) {
  Way& way = ways_[team];
  if (const Fault fault = make_room(team)) return {.fault = fault};
  if (!way.here()) {
    const Content c = content_of(shape_, share_rows(shape_, trunks_));
    std::byte* at = way.content.data();
    return {.ids = reinterpret_cast<int32_t*>(at + c.ids),
            .late = reinterpret_cast<int32_t*>(at + c.late),
            .listed = reinterpret_cast<int32_t*>(at + c.listed),
            .weights = reinterpret_cast<float*>(at + c.weights),
            .rows = reinterpret_cast<bf16*>(at + c.rows)};
  }
  const Mailbox::Inbox inbox = way.mailboxes[0].inbox(way.number + 1);
  const int64_t pair = static_cast<int64_t>(first) * shape_.top_k;
  return {.ids = inbox.ids + pair,
          .late = inbox.late + pair,
          .listed = index_ == 0 ? inbox.listed : nullptr,
          .weights = inbox.weights + pair,
          .rows = inbox.rows + first * shape_.row_stride()};
}

Given TrunkDispatch::give(size_t team, const Order& order) {
  Way& way = ways_[team];
  if (const Fault fault = make_room(team)) return {0, fault};
  const Team& to = teams_[team];
  way.order = order;
  way.order.number = ++way.number;
  Given given;
  if (way.here()) {
    Mailbox::OrderSlot& slot = way.mailboxes[0].inbox(way.number).orders[index_];
    slot.order = way.order;
    transport_.announce(slot.given.number, way.number, to.ranks);
    given.bytes = static_cast<size_t>(order.count) *
                  (static_cast<size_t>(shape_.hidden) * sizeof(bf16) + static_cast<size_t>(shape_.top_k) * 8);
  } else {
    given.bytes = send_content(way, to.ranks[0]);
  }
  if (order.count == 0) return given;
  expect(team, way.order, false);
  if (order.late) expect(team, way.order, true);
  return given;
}

size_t TrunkDispatch::send_content(Way& way, int rank) {
  const Content c = content_of(shape_, share_rows(shape_, trunks_));
  const size_t rows = static_cast<size_t>(way.order.count), pairs = rows * static_cast<size_t>(shape_.top_k);
  size_t sent = 0;
  const auto send = [&](std::span<const std::byte> bytes) {
    way.sends.push_back(transport_.post_send(rank, Tag::rows, bytes));
    sent += bytes.size();
  };
  const std::span<const std::byte> content = way.content;
  send(std::as_bytes(std::span(&way.order, 1)));
  if (rows) {
    send(content.subspan(c.ids, pairs * sizeof(int32_t)));
    if (way.order.late) send(content.subspan(c.late, pairs * sizeof(int32_t)));
    send(content.subspan(c.weights, pairs * sizeof(float)));
    send(content.subspan(c.rows, rows * static_cast<size_t>(shape_.row_stride()) * sizeof(bf16)));
  }
  if (index_ == 0 && way.order.listed)
    send(content.subspan(c.listed, static_cast<size_t>(way.order.listed) * sizeof(int32_t)));
  return sent;
}

void TrunkDispatch::expect(size_t team, const Order& order, bool late) {
  Way& way = ways_[team];
  Due due{.team = team, .late = late, .number = order.number, .first = order.first};
  for (const Mailbox& from : way.mailboxes) {
    due.from = from;
    due_.push_back(due);
  }
  if (way.here()) return;
  const std::span<std::byte> into = late ? way.late_sums[order.number % 2] : way.sums;
  due.ticket = transport_.post_receive(teams_[team].ranks[0], late ? Tag::late : Tag::results,
                                       into.first(far_sum_bytes(shape_, static_cast<size_t>(order.count))));
  due_.push_back(due);
}

bool TrunkDispatch::arrived(Due& due) {
  if (due.from) {
    const Mailbox::Flag& flag = due.late ? due.from.summed_late() : due.from.summed();
    return flag.number.load(std::memory_order_acquire) >= due.number;
  }
  if (!due.transfer.done) due.transfer = transport_.look(due.ticket);
  return due.transfer.done;
}

TrunkDispatch::Sums TrunkDispatch::view(const Due& due) const {
  const Way& way = ways_[due.team];
  Sums sums{.team = due.team, .late = due.late, .fault = due.transfer.fault};
  if (due.from) {
    const double* at = due.late ? due.from.late_sums(due.number) : due.from.sums();
    sums.at = {.at = reinterpret_cast<const std::byte*>(at + due.first * shape_.sum_stride())};
  } else {
    sums.at = {.type = shape_.wire, .at = (due.late ? way.late_sums[due.number % 2] : way.sums).data()};
  }
  sums.at.stride = shape_.sum_stride();
  return sums;
}

void TrunkDispatch::progress() {
  for (Way& way : ways_) all_done(transport_, way.sends);
  for (Due& due : due_) arrived(due);
}

bool TrunkDispatch::next(Sums& sums) {
  const auto is_due = [&](const Due& due) { return !due.late || due.number < ways_[due.team].number; };
  const auto first = std::find_if(due_.begin(), due_.end(), is_due);
  if (first == due_.end()) return false;
  auto come = due_.end();
  const bool any = transport_.wait_until([&] {
    come = std::find_if(due_.begin(), due_.end(), [&](Due& due) { return is_due(due) && arrived(due); });
    return come != due_.end();
  });
  if (!any) {
    sums = {.team = first->team, .late = first->late, .at = {}, .fault = {Fault::late, teams_[first->team].ranks[0]}};
    return true;
  }
  sums = view(*come);
  due_.erase(come);
  return true;
}

}  // namespace kt
