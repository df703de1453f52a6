#pragma once

#include "runtime/model/trunk.h"

namespace kt {

// Bytes that a trunk rank's part of one layer has to get from memory in a step, each counted once: weights, and the
// cached rows that the step's tokens read.
double mixer_traffic(const Trunk& t, int layer, const StepPlan& plan);
inline double ffn_traffic(const FfnWeights& w) { return static_cast<double>(w.gate_up.bytes() + w.down.bytes()); }

// Of latent attention with an indexer, for one slice: the cached rows that the indexer picks, and its own keys, which
// grow with the context.
struct SparseTraffic {
  double rows = 0.0, index_keys = 0.0;
};
SparseTraffic sparse_traffic(const MlaSpec& mla, const SeqSlice& slice);

}  // namespace kt
