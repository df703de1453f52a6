#include "runtime/model/dispatch.h"

#include <cstring>

#include "runtime/base/error.h"

namespace kt {
namespace {

struct Header {
  int32_t layer, rows, top_k, hidden;
};
size_t message_bytes(const Header& h) {
  const size_t rows = static_cast<size_t>(h.rows);
  return sizeof(Header) + rows * h.top_k * (sizeof(int32_t) + sizeof(float)) + rows * h.hidden * sizeof(bf16);
}

}  // namespace

void encode_dispatch(int layer, const Routing& routing, const Rows& x, int hidden, std::vector<std::byte>& room) {
  const Header header{layer, routing.rows, routing.top_k, hidden};
  room.resize(message_bytes(header));
  std::byte* at = room.data();
  auto put = [&at](const void* from, size_t bytes) {
    if (bytes) std::memcpy(at, from, bytes);
    at += bytes;
  };
  put(&header, sizeof header);
  put(routing.ids.data(), static_cast<size_t>(routing.rows) * routing.top_k * sizeof(int32_t));
  put(routing.weights.data(), static_cast<size_t>(routing.rows) * routing.top_k * sizeof(float));
  for (int i = 0; i < routing.rows; ++i) put(x.row(i), static_cast<size_t>(hidden) * sizeof(bf16));
}

DispatchMessage decode_dispatch(std::span<const std::byte> message, int experts) {
  Header h{};
  if (message.size() >= sizeof h) std::memcpy(&h, message.data(), sizeof h);
  if (message.size() < sizeof h || h.rows < 0 || h.top_k < 0 || h.hidden < 0 || message.size() != message_bytes(h))
    fail(kExitPeerLost, "expert rows: a message of {} bytes for {} rows of {} with {} experts each does not add up",
         message.size(), h.rows, h.hidden, h.top_k);
  const size_t pairs = static_cast<size_t>(h.rows) * h.top_k;
  const std::byte* at = message.data() + sizeof h;
  DispatchMessage d{.layer = h.layer, .hidden = h.hidden};
  d.routing = {.ids = {reinterpret_cast<const int32_t*>(at), pairs},
               .weights = {reinterpret_cast<const float*>(at + pairs * sizeof(int32_t)), pairs},
               .rows = h.rows,
               .top_k = h.top_k};
  d.rows = reinterpret_cast<const bf16*>(at + pairs * (sizeof(int32_t) + sizeof(float)));
  for (int32_t id : d.routing.ids)
    if (id < 0 || id >= experts) fail(kExitPeerLost, "expert rows: expert {} of {}", id, experts);
  return d;
}

}  // namespace kt
