#include "runtime/model/experts/expert_mover.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/model/experts/ask.h"
#include "runtime/model/experts/moe_room.h"

namespace kt {
namespace {

void check(const Trunk& t, std::span<const ExpertMove> moves) {
  for (const ExpertMove& m : moves)
    if (!t.experts->hot || m.layer < 0 || m.layer >= static_cast<int>(t.config.layers.size()) ||
        t.config.layers[m.layer].ffn != Ffn::moe || std::max(m.in, m.out) >= t.config.moe.experts)
      fail(kExitPeerLost, "expert {} of layer {} cannot become hot, nor {} cold", m.in, m.layer, m.out);
}

// Experts of a layer, ascending, to where `place` says: from the checkpoint with `pool`, or from the banks over
// `transport`. `arrived` is told of those that are there.
void bring_experts(const Trunk& t, Transport& transport, TrunkDispatch* dispatch, FetchRoom& room, ThreadPool& pool,
                   int layer, std::vector<int32_t> experts, const std::function<ExpertBytes(int32_t)>& place,
                   const std::function<void(int32_t)>& arrived) {
  if (t.experts->hot_source) {
    for (int32_t e : experts) {
      if (const ExpertBytes to = place(e); to.gate_up)
        load_expert(*t.experts->hot_source, t.config, layer, e, t.experts->hot->columns(), to.gate_up, pool);
      arrived(e);
    }
    return;
  }
  ExpertFetch fetch(t, transport, dispatch, room, layer, std::move(experts));
  for (std::span<const int32_t> batch; !(batch = fetch.next(place)).empty();)
    std::for_each(batch.begin(), batch.end(), arrived);
}

// While nothing else happens.
void move_now(Trunk& t, std::span<const ExpertMove> moves) {
  std::map<int, std::vector<int32_t>> in;  // by layer
  for (const ExpertMove& m : moves) {
    if (m.out >= 0) t.experts->hot->give_up(m.layer, m.out);
    if (m.in >= 0) in[m.layer].push_back(m.in);
  }
  for (auto& [layer, experts] : in) {
    std::sort(experts.begin(), experts.end());
    HotExperts& hot = *t.experts->hot;
    t.report.moved_bytes += static_cast<int64_t>(experts.size() * hot.shape().bytes());
    bring_experts(
        t, t.transport, t.dispatch, t.experts->fetch_room, t.device.host_threads(), layer, std::move(experts),
        [&hot, layer = layer](int32_t e) { return hot.take(layer, e); },
        [&hot, layer = layer](int32_t e) { hot.arrive(layer, e); });
  }
}

}  // namespace

ExpertMover::~ExpertMover() {
  if (fetched_.valid()) fetched_.wait();
  for (size_t i = 0; dispatch_ && i < dispatch_->teams().size(); ++i)
    if (dispatch_->teams()[i].group >= 0) dispatch_->give(i, {.ask = static_cast<int32_t>(Ask::leave)});
  lane_.finish_sends();
}

void ExpertMover::bring(std::span<const ExpertMove> moves) {
  moves_.assign(moves.begin(), moves.end());
  newcomers_.clear();
  for (const ExpertMove& m : moves_)
    if (m.in >= 0) {
      const int64_t slot = t_.experts->hot->claim();
      newcomers_[m.layer].push_back({m.in, slot, t_.experts->hot->place(slot)});
    }
  for (auto& [layer, experts] : newcomers_)
    std::sort(experts.begin(), experts.end(), [](const Newcomer& a, const Newcomer& b) { return a.expert < b.expert; });
  fetched_ = std::async(std::launch::async, [this] { fetch(); });
}

void ExpertMover::fetch() {
  t_.device.host_threads().unpin_caller();
  ThreadPool pool(1);
  for (const auto& [layer, newcomers] : newcomers_) {
    std::vector<int32_t> experts;
    for (const Newcomer& n : newcomers) experts.push_back(n.expert);
    bring_experts(
        t_, lane_, dispatch_, room_, pool, layer, std::move(experts),
        [this, &newcomers = newcomers](int32_t expert) {
          const auto found =
              std::find_if(newcomers.begin(), newcomers.end(), [&](const Newcomer& n) { return n.expert == expert; });
          return found->to;
        },
        [](int32_t) {});
  }
  const std::vector<int>& trunk = t_.topology.trunk;
  if (t_.share.index > 0) {
    lane_.send(trunk[0], Tag::report, {});
    return lane_.finish_sends();
  }
  std::vector<std::byte> nothing;
  for (size_t i = 1; i < trunk.size(); ++i) lane_.receive(trunk[i], Tag::report, nothing);
}

bool ExpertMover::arrived() const {
  return fetched_.valid() && fetched_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

int64_t ExpertMover::take_over() {
  if (!fetched_.valid()) return 0;
  fetched_.get();
  for (const ExpertMove& m : moves_)
    if (m.out >= 0) t_.experts->hot->give_up(m.layer, m.out);
  int64_t count = 0;
  for (const auto& [layer, newcomers] : newcomers_)
    for (const Newcomer& n : newcomers) {
      t_.experts->hot->arrive(n.slot);
      t_.experts->hot->hold(layer, n.expert, n.slot);
      ++count;
    }
  return count * static_cast<int64_t>(t_.experts->hot->shape().bytes());
}

void move_experts(Trunk& t, const StepOrders& orders) {
  check(t, orders.moves);
  check(t, orders.bring);
  if ((orders.take_over || !orders.bring.empty()) && !t.experts->mover)
    fail(kExitPeerLost, "no experts can come beside the steps of this rank");
  if (orders.take_over) t.report.moved_bytes += t.experts->mover->take_over();
  move_now(t, orders.moves);
  if (!orders.bring.empty()) t.experts->mover->bring(orders.bring);
}

}  // namespace kt
