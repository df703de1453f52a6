#include "runtime/model/experts/doors.h"

#include <algorithm>
#include <set>

namespace kt {
namespace {

// Of every expert rank that is no trunk rank, whether it has columns of any expert.
std::vector<Team> teams_of(const Topology& topology, const ModelConfig& config) {
  if (topology.world == 1 || !config.moe.experts) return {};
  std::vector<bool> holds;
  for (const ExpertShare& share : expert_shares(config.moe.inter, topology.group_of, topology.replicated))
    holds.push_back(share.count(config.moe.experts) > 0);
  return make_teams(topology, holds);
}

int machine_of(const Topology& topology, int rank) { return topology.node_of[static_cast<size_t>(rank)]; }

}  // namespace

bool shares_sums(const Topology& topology) { return topology.trunk.size() > 1 || topology.trunk[0] != 0; }

Doors plan_doors(const Topology& topology, const ModelConfig& config, const TrunkLimits& limits) {
  Doors doors{.teams = teams_of(topology, config),
              .shape = {.rows = limits.max_rows,
                        .hidden = config.hidden,
                        .top_k = config.moe.top_k,
                        .experts = config.moe.experts,
                        .late = limits.max_deferred > 0,
                        .wire = limits.wire},
              .trunk = {.ranks = topology.trunk, .root = 0},
              .shares_sums = shares_sums(topology),
              .mailbox = {},
              .values = {}};
  if (!doors.shares_sums) return doors;
  const int trunks = static_cast<int>(topology.trunk.size());
  Layout layout;
  const SumMemory sums =
      lay_out_sums(layout, config, trunk_share(config, std::max(0, topology.trunk_index()), trunks), limits);
  doors.sum_bytes = static_cast<size_t>(sums.y.rows * sums.y.ld) * sizeof(double);
  doors.value_bytes = topology.trunk_index() >= 0 ? layout.bytes() : 0;
  return doors;
}

Doors plan_side_doors(const Topology& topology, const ModelConfig& config) {
  return {.teams = teams_of(topology, config),
          .shape = {.hidden = config.hidden, .top_k = config.moe.top_k, .experts = config.moe.experts},
          .trunk = {},
          .mailbox = {},
          .values = {}};
}

void open_doors(Doors& doors, Transport& transport, const Topology& topology) {
  if (!doors.teams.empty()) doors.mailbox = share_mailbox(transport, topology, doors.teams, doors.shape);
  if (doors.shares_sums) doors.values = Group::share(transport, doors.trunk, doors.value_bytes);
}

size_t door_bytes(const Doors& doors, const Topology& topology) {
  const int trunks = static_cast<int>(topology.trunk.size()), here = machine_of(topology, topology.rank);
  const bool far_trunks =
      std::any_of(topology.trunk.begin(), topology.trunk.end(), [&](int r) { return machine_of(topology, r) != here; });
  size_t bytes = doors.value_bytes;
  int far_teams = 0;
  for (const Team& team : doors.teams) {
    far_teams += machine_of(topology, team.ranks[0]) != here;
    if (std::count(team.ranks.begin(), team.ranks.end(), topology.rank))
      bytes += expert_mail_bytes(doors.shape, team.ranks[0] == topology.rank, trunks, far_trunks);
  }
  if (topology.trunk_index() < 0) return bytes;
  std::set<int> machines;
  for (const int rank : topology.trunk) machines.insert(machine_of(topology, rank));
  return bytes + trunk_mail_bytes(doors.shape, trunks, far_teams) + Group::room_bytes(machines.size(), doors.sum_bytes);
}

}  // namespace kt
