#pragma once

#include "kernels/device.h"
#include "runtime/comm/dispatch.h"
#include "runtime/comm/topology.h"
#include "runtime/comm/transport.h"
#include "runtime/model/experts/bank.h"
#include "runtime/step/step_clock.h"

namespace kt {

// The whole life of an expert rank that is not a trunk rank too: per MoE layer takes the rows of every trunk rank,
// computes them on its bank as one batch and returns each its sums; ends when the trunk ranks say so. Tells rank 0
// `clock`'s reading when asked; a step of it begins with its first MoE layer. `shape` is the dispatch's. The device's
// reserve() has been called, for bank_shape().
void serve_experts(Transport& transport, const Topology& topology, ExpertDispatch& dispatch, const DispatchShape& shape,
                   StepClock& clock, Device& device, const ModelConfig& config, const ExpertBank& bank);

}  // namespace kt
