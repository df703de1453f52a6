#include "runtime/model/experts/remote_experts.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/model/experts/ask.h"
#include "runtime/model/experts/moe_room.h"

namespace kt {
namespace {

bool wants(const Routing& routing, int row) {
  if (!routing.rows) return false;
  const auto ids = routing.ids.subspan(static_cast<size_t>(row) * routing.top_k, routing.top_k);
  return std::any_of(ids.begin(), ids.end(), [](int32_t id) { return id >= 0; });
}

// Which rows a team gets, and which of them this rank sends.
void choose_rows(const Trunk& t, const Routing& now, const Routing& late, RemoteTeam& team) {
  const Range share = part_of(now.rows, t.share.index, t.share.count);
  team.rows.clear();
  for (int r = 0; r < now.rows; ++r) {
    const bool deferred = wants(late, r);
    if (!deferred && !wants(now, r)) continue;
    team.order.late |= deferred;
    ++team.order.rows;
    if (r < share.begin) ++team.order.first;
    if (r >= share.begin && r < share.end) team.rows.push_back(r);
  }
  team.order.count = static_cast<int32_t>(team.rows.size());
}

template <class T>
void pick(std::span<const T> from, const std::vector<int32_t>& rows, int top_k, T* to) {
  for (const int32_t r : rows) to = std::copy_n(&from[static_cast<size_t>(r) * static_cast<size_t>(top_k)], top_k, to);
}

}  // namespace

Routing of_group(const MoeRoom& room, const Routing& routing, int group, int32_t* ids) {
  if (room.groups.count() == 1 || room.sliced || !routing.rows) return routing;
  for (size_t i = 0; i < routing.ids.size(); ++i) ids[i] = room.routed.group_of[i] == group ? routing.ids[i] : -1;
  Routing out = routing;
  out.ids = {ids, routing.ids.size()};
  return out;
}

void send_rows(Trunk& t, int layer, const Routing& all_now, const Routing& all_late) {
  if (!t.dispatch) return;
  MoeRoom& room = *t.experts;
  const std::span<const Team> teams = t.dispatch->teams();
  for (size_t i = 0; i < teams.size(); ++i) {
    if (teams[i].group < 0) continue;
    RemoteTeam& team = room.remote[i];
    const Routing now = of_group(room, all_now, teams[i].group, room.routed.of_group);
    const Routing late = of_group(room, all_late, teams[i].group, room.routed.late_of_group);
    team.order = {.ask = static_cast<int32_t>(Ask::compute),
                  .layer = layer,
                  .phase = static_cast<int32_t>(t.clock.phase()),
                  .sliced = room.sliced};
    choose_rows(t, now, late, team);
    const TrunkDispatch::Outbox out = t.dispatch->outbox(i, team.order.first);
    check(out.fault, "rows for experts");
    pick(now.ids, team.rows, now.top_k, out.ids);
    pick(now.weights, team.rows, now.top_k, out.weights);
    if (team.order.late) pick(late.ids, team.rows, now.top_k, out.late);
    t.device.rows_out(t.normed(), team.rows,
                      {out.rows, t.dispatch->shape().row_stride(), team.order.count, t.config.hidden});
  }
  t.device.wait();
  for (size_t i = 0; i < teams.size(); ++i) {
    if (teams[i].group < 0) continue;
    const Given given = t.dispatch->give(i, room.remote[i].order);
    check(given.fault, "rows for experts");
    t.clock.sent(given.bytes);
  }
}

// In whatever order they come: the sums are exact.
void receive_sums(Trunk& t) {
  if (!t.dispatch) return;
  MoeRoom& room = *t.experts;
  for (TrunkDispatch::Sums sums; t.dispatch->next(sums);) {
    check(sums.fault, "sums of experts");
    t.clock.lap(StepPart::wait);
    const RemoteTeam& team = room.remote[sums.team];
    t.device.sums_in(sums.at, sums.late ? team.late_rows : team.rows, t.sums());
    t.clock.lap(StepPart::other);
  }
  t.device.wait();
  for (RemoteTeam& team : room.remote) {
    team.late_rows.clear();
    if (team.order.late) std::swap(team.rows, team.late_rows);
  }
  t.clock.lap(StepPart::other);
}

}  // namespace kt
