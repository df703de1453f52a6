#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/device.h"
#include "runtime/comm/transport.h"
#include "runtime/model/step_clock.h"

namespace kt {

// What a trunk rank sends to an expert rank, once per MoE layer, also when it has no rows for it:
//   int32 ask, layer, phase, rows, top_k, hidden, late
//   compute   int32 ids [rows, top_k] | if late: int32 late ids [rows, top_k] | float32 weights [rows, top_k]
//             | bf16 rows [rows, hidden]
//   weights   int32 experts [rows]
//   clock     nothing: rank 0 wants the rank's ClockReading, with Tag::clock
//   leave     nothing: no more steps
// Ids are -1 where the pair is another's. To `compute` with rows there comes back one message of float64 sums
// [rows, hidden] with Tag::results and, if late, another with Tag::late, which the trunk adds one MoE layer later. To
// `weights` come the experts in batches, see expert_fetch.h.
enum class Ask : int32_t { compute, weights, clock, leave };

struct DispatchMessage {
  Ask ask = Ask::leave;
  int layer = 0;
  Phase phase = Phase::prefill;
  int hidden = 0;
  bool has_late = false;
  Routing now, late;
  const bf16* rows = nullptr;
  std::span<const int32_t> experts;
};

// Everything but the rows themselves, which go where the result points. Of the routings those in `rows`; `late` has no
// rows when nothing is deferred. `room` is reused between calls.
bf16* encode_rows(int layer, Phase phase, std::span<const int32_t> rows, const Routing& now, const Routing& late,
                  int hidden, std::vector<std::byte>& room);
void encode_weights(int layer, std::span<const int32_t> experts, std::vector<std::byte>& room);
void encode_notice(Ask ask, std::vector<std::byte>& room);  // clock, leave
// Views into the message; throws Error(kExitPeerLost) when sizes do not agree or an expert id is out of range.
DispatchMessage decode_dispatch(std::span<const std::byte> message, int experts);

}  // namespace kt
