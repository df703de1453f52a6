#include "runtime/model/dispatch.h"

#include <cstring>

#include "runtime/base/error.h"

namespace kt {
namespace {

struct Header {
  Ask ask = Ask::leave;
  int32_t layer = 0, phase = 0, rows = 0, top_k = 0, hidden = 0, late = 0;
};
// Saturates: rows times a row's 2^35 bytes may exceed 64 bits.
size_t message_bytes(const Header& h) {
  const size_t rows = static_cast<size_t>(h.rows), top_k = static_cast<size_t>(h.top_k);
  if (h.ask != Ask::compute) return sizeof(Header) + rows * sizeof(int32_t);
  const size_t row_bytes =
      top_k * ((h.late ? 2 : 1) * sizeof(int32_t) + sizeof(float)) + static_cast<size_t>(h.hidden) * sizeof(bf16);
  size_t bytes = 0;
  if (__builtin_mul_overflow(rows, row_bytes, &bytes) || __builtin_add_overflow(bytes, sizeof(Header), &bytes))
    return SIZE_MAX;
  return bytes;
}

// Writes one thing after the other.
class Writer {
 public:
  Writer(const Header& header, std::vector<std::byte>& room) {
    room.resize(message_bytes(header));
    at_ = room.data();
    put(&header, 1);
  }
  template <class T>
  void put(const T* values, size_t count) {
    if (count) std::memcpy(at_, values, count * sizeof(T));
    at_ += count * sizeof(T);
  }
  std::byte* at() const { return at_; }

 private:
  std::byte* at_;
};

}  // namespace

bf16* encode_rows(int layer, Phase phase, std::span<const int32_t> rows, const Routing& now, const Routing& late,
                  int hidden, std::vector<std::byte>& room) {
  const size_t top_k = static_cast<size_t>(now.top_k);
  Writer w({Ask::compute, layer, static_cast<int32_t>(phase), static_cast<int32_t>(rows.size()), now.top_k, hidden,
            late.rows > 0},
           room);
  for (int32_t r : rows) w.put(&now.ids[r * top_k], top_k);
  if (late.rows)
    for (int32_t r : rows) w.put(&late.ids[r * top_k], top_k);
  for (int32_t r : rows) w.put(&now.weights[r * top_k], top_k);
  return reinterpret_cast<bf16*>(w.at());
}

void encode_weights(int layer, std::span<const int32_t> experts, std::vector<std::byte>& room) {
  Writer w({.ask = Ask::weights, .layer = layer, .rows = static_cast<int32_t>(experts.size())}, room);
  w.put(experts.data(), experts.size());
}

void encode_notice(Ask ask, std::vector<std::byte>& room) { Writer({.ask = ask}, room); }

DispatchMessage decode_dispatch(std::span<const std::byte> message, int experts) {
  Header h;
  if (message.size() >= sizeof h) std::memcpy(&h, message.data(), sizeof h);
  if (message.size() < sizeof h || h.ask < Ask::compute || h.ask > Ask::leave || h.phase < 0 || h.phase >= kPhases ||
      h.rows < 0 || h.top_k < 0 || h.hidden < 0 || message.size() != message_bytes(h))
    fail(kExitPeerLost, "expert rows: a message of {} bytes for {} rows of {} with {} experts each does not add up",
         message.size(), h.rows, h.hidden, h.top_k);
  const std::byte* at = message.data() + sizeof h;
  const auto take_ids = [&](size_t count) {
    const std::span<const int32_t> ids{reinterpret_cast<const int32_t*>(at), count};
    at += ids.size_bytes();
    for (int32_t id : ids)
      if (id < -1 || id >= experts) fail(kExitPeerLost, "expert rows: expert {} of {}", id, experts);
    return ids;
  };
  DispatchMessage d{.ask = h.ask,
                    .layer = h.layer,
                    .phase = static_cast<Phase>(h.phase),
                    .hidden = h.hidden,
                    .has_late = h.late != 0};
  const size_t rows = static_cast<size_t>(h.rows), pairs = rows * static_cast<size_t>(h.top_k);
  if (h.ask != Ask::compute) {
    d.experts = take_ids(rows);
    return d;
  }
  d.now = {.ids = take_ids(pairs), .weights = {}, .rows = h.rows, .top_k = h.top_k};
  if (h.late) d.late = {.ids = take_ids(pairs), .weights = {}, .rows = h.rows, .top_k = h.top_k};
  d.now.weights = d.late.weights = {reinterpret_cast<const float*>(at), pairs};
  d.rows = reinterpret_cast<const bf16*>(at + pairs * sizeof(float));
  return d;
}

}  // namespace kt
