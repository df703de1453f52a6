#pragma once

#include <cstdint>

namespace kt {

// What an order of the trunk ranks asks of expert ranks (Order::ask):
//   compute  the sums of its rows, in a step of Order::phase; deferred experts' after those
//   weights  the experts that it lists, in batches, see expert_fetch.h
//   clock    the rank's ClockReading for rank 0, with Tag::clock
//   leave    no more orders
enum class Ask : int32_t { compute, weights, clock, leave };

}  // namespace kt
