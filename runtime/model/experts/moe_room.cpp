#include "runtime/model/experts/moe_room.h"

namespace kt {
namespace {

RoutingMemory lay_out_routing(Layout& layout, const ModelConfig& c, const TrunkLimits& limits) {
  const int64_t pairs = static_cast<int64_t>(limits.max_rows) * c.moe.top_k;
  RoutingMemory r{.ids = layout.array<int32_t>(pairs), .weights = layout.array<float>(pairs)};
  for (int32_t** ids : {&r.hot, &r.cold, &r.late, &r.group_of, &r.of_group, &r.late_of_group})
    *ids = layout.array<int32_t>(pairs);
  return r;
}

// ExpertSlots for weights of experts: how many, in which format.
struct ExpertSlots {
  Format format;
  int64_t count;
};
ExpertSlots hot_slots(const TrunkLimits& limits) {
  return {limits.hot_format, limits.hot_experts ? limits.hot_experts + limits.spare_experts : 0};
}
// Two times.
ExpertSlots stream_slots(const ModelConfig& c, const TrunkLimits& limits) {
  return {limits.expert_format, limits.layerwise ? fetch_batch(c, limits.expert_format) : 0};
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
  room.routed = take_laid_out(
      room.memory, [&](size_t bytes) { return t.device.take_host(bytes); },
      [&](Layout& l) { return lay_out_routing(l, c, t.limits); });
  const Range columns = inter_part(c.moe.inter, t.share.index, t.share.count);
  const auto take = [&](ExpertSlots s) {
    return s.count ? std::make_unique<HotExperts>(c, s.format, columns, s.count, t.device) : nullptr;
  };
  room.hot = take(hot_slots(t.limits));
  for (auto& slots : room.stream) slots = take(stream_slots(c, t.limits));
}

MoeRoomBytes moe_room_bytes(const ModelConfig& c, const TrunkShare& share, const TrunkLimits& limits) {
  const int columns = inter_part(c.moe.inter, share.index, share.count).size();
  const auto bytes = [&](ExpertSlots s) {
    return s.count ? Buffer::footprint(HotExperts::bytes(c, s.format, columns, s.count)) : 0;
  };
  Layout routing;
  lay_out_routing(routing, c, limits);
  return {.hot = bytes(hot_slots(limits)),
          .stream = 2 * bytes(stream_slots(c, limits)),
          .routing = Buffer::footprint(routing.bytes())};
}

int bank_columns(const ExpertBank* bank) { return bank ? bank->share.columns.size() : 0; }

void begin_experts(Trunk& t, const StepOrders& orders) {
  move_experts(t, orders);
  t.experts->layerwise = orders.layerwise;
}

bool experts_arrived(const Trunk& t) { return t.experts->mover && t.experts->mover->arrived(); }

}  // namespace kt
