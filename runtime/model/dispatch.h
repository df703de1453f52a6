#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/comm/transport.h"
#include "runtime/model/experts.h"

namespace kt {

// One message from a trunk rank to an expert rank per MoE layer, also when it has no rows:
//   int32 layer (-1: no more steps, leave), int32 rows, int32 top_k, int32 hidden
//   int32 ids [rows, top_k] | float32 weights [rows, top_k] | bf16 rows [rows, hidden]
// and one back with the float64 sums [rows, hidden]. All expert ranks hold a slice of every expert, so the message is
// the same for all of them and is made once.
inline constexpr int kLeave = -1;

struct DispatchMessage {
  int layer = 0, hidden = 0;
  Routing routing;
  const bf16* rows = nullptr;
};

// `room` is reused between calls.
void encode_dispatch(int layer, const Routing& routing, const Rows& x, int hidden, std::vector<std::byte>& room);
// Views into the message; throws Error(kExitPeerLost) when sizes do not agree or an expert id is out of range.
DispatchMessage decode_dispatch(std::span<const std::byte> message, int experts);

}  // namespace kt
