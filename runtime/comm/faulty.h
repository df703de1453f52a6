#pragma once

#include <cstdint>
#include <memory>

#include "runtime/comm/transport.h"

namespace kt {

// How a faulty transport errs: probabilities for one posted transfer or announced flag.
struct FaultPlan {
  uint64_t seed = 0;     // draws are repeatable per rank
  double delay = 0.0;    // takes up to 2 ms longer
  double reorder = 0.0;  // waits until this rank does, while what goes elsewhere overtakes it
  double cut = 0.0;      // a transfer loses half of its bytes
  double drop = 0.0;     // never gets there
  int spared = 0;        // first ones that are left alone
};

// `inner` with faults: for tests of what is built on transports. Messages stay whole.
// `inner` must outlive it.
std::unique_ptr<Transport> make_faulty(Transport& inner, const FaultPlan& plan);

}  // namespace kt
