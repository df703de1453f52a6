#include "runtime/model/remote_experts.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/model/dispatch.h"
#include "runtime/model/trunk.h"

namespace kt {
namespace {

bool wants(const Routing& routing, int row) {
  if (!routing.rows) return false;
  const auto ids = routing.ids.subspan(static_cast<size_t>(row) * routing.top_k, routing.top_k);
  return std::any_of(ids.begin(), ids.end(), [](int32_t id) { return id >= 0; });
}

// Exact sums, so the order of arrival does not matter.
void receive_and_add(Trunk& t, int rank, Tag tag, const std::vector<int32_t>& rows) {
  if (rows.empty()) return;
  t.transport.receive(rank, tag, t.inbox);
  t.clock.lap(StepPart::wait);
  const size_t expected = rows.size() * static_cast<size_t>(t.config.hidden) * sizeof(double);
  if (t.inbox.size() != expected)
    fail(kExitPeerLost, "rank {} returned {} bytes of expert sums instead of {}", rank, t.inbox.size(), expected);
  t.device.sums_in(reinterpret_cast<const double*>(t.inbox.data()), rows, t.sums());
}

}  // namespace

Routing of_group(const Trunk& t, const Routing& routing, int group, std::vector<int32_t>& room) {
  if (t.groups.count() == 1 || !routing.rows) return routing;
  room.assign(routing.ids.begin(), routing.ids.end());
  for (size_t i = 0; i < room.size(); ++i)
    if (t.group_of[i] != group) room[i] = -1;
  Routing out = routing;
  out.ids = room;
  return out;
}

void send_rows(Trunk& t, int layer, const Routing& all_now, const Routing& all_late, int begin, int end) {
  for (RemoteGroup& g : t.remote) {
    const Routing now = of_group(t, all_now, g.group, t.group_ids);
    const Routing late = of_group(t, all_late, g.group, t.group_late_ids);
    bool any_late = false;
    g.rows.clear();
    for (int r = begin; r < end; ++r) {
      const bool deferred = wants(late, r);
      any_late |= deferred;
      if (deferred || wants(now, r)) g.rows.push_back(r);
    }
    bf16* rows =
        encode_rows(layer, t.clock.phase(), g.rows, now, any_late ? late : Routing{}, t.config.hidden, g.outbox);
    t.device.rows_out(t.normed(), g.rows, rows);
    g.sent_late = any_late;
  }
  t.device.wait();
  for (const RemoteGroup& g : t.remote) {
    for (int rank : g.ranks) t.transport.send(rank, Tag::rows, g.outbox);
    t.clock.sent(g.ranks.size() * g.outbox.size());
  }
}

void receive_sums(Trunk& t) {
  for (RemoteGroup& g : t.remote) {
    for (int rank : g.ranks) {
      receive_and_add(t, rank, Tag::late, g.late_rows);
      receive_and_add(t, rank, Tag::results, g.rows);
    }
    g.late_rows = g.sent_late ? g.rows : std::vector<int32_t>();
  }
  t.transport.finish_sends();
  t.clock.lap(StepPart::other);
}

}  // namespace kt
