#include "runtime/model/experts/moe_room.h"

#include <numeric>

namespace kt {
namespace {

RoutingMemory lay_out_routing(Layout& layout, const ModelConfig& c, const TrunkLimits& limits,
                              const ExpertShare& bank) {
  const int64_t pairs = static_cast<int64_t>(limits.max_rows) * c.moe.top_k;
  RoutingMemory r{.ids = layout.array<int32_t>(pairs), .weights = layout.array<float>(pairs)};
  for (int32_t** ids : {&r.hot, &r.cold, &r.late, &r.group_of, &r.of_group, &r.late_of_group})
    *ids = layout.array<int32_t>(pairs);
  r.pieces = lay_out_pieces(layout, c, bank, limits.max_rows);
  return r;
}

BankRows lay_out_bank_rows(Layout& layout, const ModelConfig& c, const TrunkLimits& limits) {
  return {.rows = layout.matrix<bf16>(limits.max_rows, c.hidden, kTileK),
          .sums = layout.matrix<double>(limits.max_rows, c.hidden, kPanel),
          .every = layout.array<int32_t>(limits.max_rows)};
}

// Slots for weights of experts: in which format, how many, and how many may be on their way at a time.
struct ExpertSlots {
  Format format;
  int64_t count, staged;
};
ExpertSlots hot_slots(const ModelConfig& c, const TrunkLimits& limits) {
  if (!limits.hot_experts) return {};
  const int64_t coming = limits.device->host_writes ? 0 : fetch_batch(c, limits.hot_format) + limits.spare_experts;
  return {limits.hot_format, limits.hot_experts + limits.spare_experts, coming};
}
// Two times.
ExpertSlots stream_slots(const ModelConfig& c, const TrunkLimits& limits) {
  if (!limits.layerwise) return {};
  const int64_t batch = fetch_batch(c, limits.expert_format);
  return {limits.expert_format, batch, limits.device->host_writes ? 0 : batch};
}

}  // namespace

void DeleteMoeRoom::operator()(MoeRoom* room) const { delete room; }

void make_moe_room(Trunk& t, const ExpertBank* bank, std::span<const ExpertSets> copies) {
  const ModelConfig& c = t.config;
  t.experts.reset(new MoeRoom);
  MoeRoom& room = *t.experts;
  room.bank = bank;
  for (int layer = 0; layer < static_cast<int>(c.layers.size()); ++layer)
    if (c.layers[layer].ffn == Ffn::moe) room.last_layer = layer;
  const std::vector<int> one_group(t.topology.experts.size(), 0);
  room.shares = expert_shares(c.moe.inter, t.topology.group_of.empty() ? one_group : t.topology.group_of);
  if (t.dispatch) room.remote.resize(t.dispatch->teams().size());
  room.groups = ExpertGroups(room.shares.front().groups, c.moe.experts, copies);
  const auto take_host = [&](size_t bytes) { return t.device.take_host(bytes); };
  room.routed = take_laid_out(room.memory, take_host, [&](Layout& l) {
    return lay_out_routing(l, c, t.limits, bank ? bank->share : ExpertShare());
  });
  if (bank && bank->device != &t.device) {
    room.apart =
        take_laid_out(room.apart_memory, take_host, [&](Layout& l) { return lay_out_bank_rows(l, c, t.limits); });
    std::iota(room.apart.every, room.apart.every + t.limits.max_rows, 0);
  }
  const Range columns = inter_part(c.moe.inter, t.share.index, t.share.count);
  const auto take = [&](ExpertSlots s) {
    return s.count ? std::make_unique<HotExperts>(c, s.format, columns, s.count, t.device, s.staged) : nullptr;
  };
  room.hot = take(hot_slots(c, t.limits));
  for (auto& slots : room.stream) slots = take(stream_slots(c, t.limits));
}

MoeRoomBytes moe_room_bytes(const ModelConfig& c, const TrunkShare& share, const TrunkLimits& limits,
                            const ExpertShare& bank) {
  const int columns = inter_part(c.moe.inter, share.index, share.count).size();
  const ExpertSlots hot = hot_slots(c, limits), stream = stream_slots(c, limits);
  const auto bytes = [&](Format format, int64_t count) {
    return count ? Buffer::footprint(HotExperts::bytes(c, format, columns, count)) : 0;
  };
  Layout routing, apart;
  lay_out_routing(routing, c, limits, bank);
  if (bank.columns() && !limits.device->host_writes) lay_out_bank_rows(apart, c, limits);
  return {.hot = bytes(hot.format, hot.count),
          .stream = 2 * bytes(stream.format, stream.count),
          .host = Buffer::footprint(routing.bytes()) + Buffer::footprint(apart.bytes()) +
                  bytes(hot.format, hot.staged) + 2 * bytes(stream.format, stream.staged)};
}

ExpertShare share_here(const ExpertBank* bank, const Device& device) {
  return bank && bank->device == &device ? bank->share : ExpertShare();
}

void begin_experts(Trunk& t, const StepOrders& orders) {
  move_experts(t, orders);
  t.experts->layerwise = orders.layerwise;
  t.experts->sliced = orders.sliced;
}

void go_on_without(Trunk& t, TrunkDispatch& dispatch, std::span<const int> groups) {
  t.dispatch = &dispatch;
  t.experts->remote.assign(dispatch.teams().size(), RemoteTeam());
  for (const int group : groups) t.experts->groups.leave_out(group);
}

bool experts_arrived(const Trunk& t) { return t.experts->mover && t.experts->mover->arrived(); }

}  // namespace kt
