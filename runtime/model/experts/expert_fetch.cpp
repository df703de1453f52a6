#include "runtime/model/experts/expert_fetch.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/model/experts/ask.h"
#include "runtime/model/experts/moe_room.h"

namespace kt {
namespace {

constexpr size_t kBatchBytes = size_t{64} << 20;

Range overlap(Range a, Range b) {
  const int begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

}  // namespace

int fetch_batch(const ModelConfig& config, Format format) {
  const size_t one = std::max<size_t>(1, expert_bytes(config, format, config.moe.inter));
  return static_cast<int>(std::clamp<size_t>(kBatchBytes / one, 1, static_cast<size_t>(config.moe.experts)));
}

void stage_pieces(const ModelConfig& config, const ExpertBank& bank, int layer, std::span<const int32_t> batch,
                  Range trunk_columns, std::vector<std::byte>& out) {
  const Range columns = bank.share.pieces[0], common = overlap(columns, trunk_columns);
  out.clear();
  if (!common.size()) return;
  const PackedShape mine = expert_shape(config, bank.format, columns.size());
  const PackedShape piece = expert_shape(config, bank.format, common.size());
  const auto owned = std::count_if(batch.begin(), batch.end(), [&](int32_t e) { return bank.share.owns(e); });
  out.resize(static_cast<size_t>(owned) * piece.bytes());
  std::byte* at = out.data();
  for (int32_t e : batch) {
    if (!bank.share.owns(e)) continue;
    const FfnWeights& w = bank.layer(layer, config.moe.experts)[e];
    copy_columns(mine, w.gate_up.data, w.down.data, common.begin - columns.begin, common.size(), piece,
                 {at, at + piece.gate_up.bytes()}, 0);
    at += piece.bytes();
  }
}

ExpertFetch::ExpertFetch(const Trunk& t, Transport& transport, TrunkDispatch* dispatch, FetchRoom& room, int layer,
                         std::vector<int32_t> experts)
    : t_(t), transport_(transport), room_(room), layer_(layer), experts_(std::move(experts)) {
  if (experts_.empty()) return;
  for (size_t i = 0; dispatch && i < dispatch->teams().size(); ++i) {
    if (dispatch->teams()[i].group < 0) continue;
    const TrunkDispatch::Outbox out = dispatch->outbox(i, 0);
    check(out.fault, "experts to fetch");
    if (out.listed) std::copy(experts_.begin(), experts_.end(), out.listed);
    const Order order{
        .ask = static_cast<int32_t>(Ask::weights), .layer = layer, .listed = static_cast<int32_t>(experts_.size())};
    check(dispatch->give(i, order).fault, "experts to fetch");
  }
  if (t.experts->bank) room_.outboxes.resize(t.topology.trunk.size());
}

// Ranks with both roles serve each other without being asked.
void ExpertFetch::send_to_peers(std::span<const int32_t> batch) {
  for (size_t i = 0; i < room_.outboxes.size(); ++i) {
    if (static_cast<int>(i) == t_.share.index) continue;
    const Range columns = inter_part(t_.config.moe.inter, static_cast<int>(i), static_cast<int>(room_.outboxes.size()));
    stage_pieces(t_.config, *t_.experts->bank, layer_, batch, columns, room_.outboxes[i]);
    if (!room_.outboxes[i].empty())
      room_.sends.push_back(transport_.post_send(t_.topology.trunk[i], Tag::weights, room_.outboxes[i]));
  }
}

std::span<const int32_t> ExpertFetch::next(const std::function<ExpertBytes(int32_t)>& place) {
  const ModelConfig& c = t_.config;
  const size_t count = std::min(static_cast<size_t>(fetch_batch(c, t_.limits.expert_format)), experts_.size() - done_);
  const std::span<const int32_t> batch = std::span(experts_).subspan(done_, count);
  done_ += count;
  if (batch.empty()) return batch;

  std::vector<ExpertBytes> places;
  for (int32_t e : batch) places.push_back(place(e));
  send_to_peers(batch);
  const Range mine = inter_part(c.moe.inter, t_.share.index, t_.share.count);
  const PackedShape whole = expert_shape(c, t_.limits.expert_format, mine.size());
  const std::vector<ExpertShare>& shares = t_.experts->shares;
  for (size_t i = 0; i < shares.size(); ++i) {
    const ExpertShare& share = shares[i];
    const int rank = t_.topology.experts[i];
    const Range common = overlap(share.pieces[0], mine);
    const auto owned = std::count_if(batch.begin(), batch.end(), [&](int32_t e) { return share.owns(e); });
    if (!common.size() || !owned) continue;
    const PackedShape piece = expert_shape(c, t_.limits.expert_format, common.size());
    if (rank == t_.topology.rank) {
      stage_pieces(c, *t_.experts->bank, layer_, batch, mine, room_.inbox);
    } else {
      room_.inbox.resize(static_cast<size_t>(owned) * piece.bytes());
      check(finish(transport_, transport_.post_receive(rank, Tag::weights, room_.inbox), rank), "experts fetched");
    }
    const std::byte* at = room_.inbox.data();
    for (size_t b = 0; b < batch.size(); ++b) {
      if (!share.owns(batch[b])) continue;
      copy_columns(piece, at, at + piece.gate_up.bytes(), 0, common.size(), whole, places[b],
                   common.begin - mine.begin);
      at += piece.bytes();
    }
  }
  for (const Ticket ticket : room_.sends) check(finish(transport_, ticket, t_.topology.rank), "experts fetched");
  room_.sends.clear();
  return batch;
}

}  // namespace kt
