#pragma once

#include <functional>
#include <span>
#include <string>

#include "runtime/arch/load_config.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/comm/transport.h"
#include "runtime/config/run_config.h"
#include "runtime/placement/placement.h"
#include "runtime/rank/expert_source.h"

namespace kt {

// What all ranks of a job must have alike: a difference would show late, or as wrong answers, or not at all. All ranks
// call these together. Each throws where a rank has something else than rank 0, naming that rank, what it is, both
// values and what to do; `name_of` names a rank and its host.
using NameOfRank = std::function<std::string(int rank)>;

// This program's version and build, and the options but for paths and what concerns rank 0 alone. Error(kExitUsage).
void agree_on_start(Transport& transport, const RunConfig& run, const NameOfRank& name_of);

// config.json, the weights' files and those of the experts, which each machine may have in a folder of its own: names,
// shapes, places, and samples of what is in them (all of it up to 64 MiB); and where experts are hot or copied, which a
// file may say. Returns a checksum of all that. Error(kExitModel).
std::string agree_on_model(Transport& transport, const LoadedConfig& model, const Checkpoint& checkpoint,
                           const ExpertFiles& experts, const HotSets& hot, std::span<const ExpertSets> copies,
                           const NameOfRank& name_of);

}  // namespace kt
