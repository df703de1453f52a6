#pragma once

#include <optional>
#include <span>

#include "runtime/arch/config.h"
#include "runtime/comm/mailbox.h"
#include "runtime/config/run_config.h"
#include "runtime/placement/placement.h"

namespace kt {

// Expert ranks that a job may lose and go on (on-lost-expert-rank: go-on). `copies` by group of expert ranks.
struct Holders {
  const ModelConfig& config;
  const Topology& topology;
  const HotSets& hot;
  std::span<const HotSets> copies;
};

// The groups of which these ranks hold experts.
std::vector<int> groups_of(const Topology& topology, std::span<const int> ranks);

// An expert that nobody would hold without the groups of these ranks; none: they can be missed.
std::optional<LayerExpert> lost_with(const Holders& holders, std::span<const int> ranks);

// That any one team can be missed, of expert ranks that are no trunk ranks. Throws Error(kExitUsage) naming the expert
// that would be lost, or that there is no such team. Nothing where the options do not ask for it.
void check_losses(const RunConfig& run, const Holders& holders, std::span<const Team> teams);

}  // namespace kt
