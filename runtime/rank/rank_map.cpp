#include "runtime/rank/rank_map.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace kt {
namespace {

using Row = std::array<std::string, 7>;
constexpr size_t kLeft = 1;  // columns from here on begin at the left

Row own_row(const JobRank& job) {
  const bool trunk = job.topology.trunk_index() >= 0, computes = trunk || job.expert_share.columns() > 0;
  const std::string device =
      job.gpu_trunk() && trunk ? fmt::format("{}:{}", job.device_kind->name, job.device_index) : "cpu";
  return {std::to_string(job.rank()),
          job.lifeline->host(job.rank()),
          job.cores.numa_node < 0 ? "any" : std::to_string(job.cores.numa_node),
          !computes                 ? "none"
          : job.cores.cores.empty() ? "not pinned"
                                    : as_ranges(job.cores.cores),
          computes ? std::to_string(job.cores.threads) : "0",
          computes ? device : "none",
          job.topology.role_name()};
}

}  // namespace

std::string rank_map(const JobRank& job) {
  std::vector<Row> rows = {{"rank", "host", "NUMA node", "cores", "threads", "device", "role"}};
  for (const std::string& row : all_gather(job.transport, nlohmann::json(own_row(job)).dump()))
    rows.push_back(nlohmann::json::parse(row).get<Row>());
  std::array<size_t, std::tuple_size_v<Row>> width{};
  for (const Row& row : rows)
    for (size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  std::string text;
  for (const Row& row : rows) {
    std::string line = fmt::format("  {:>{}}", row[0], width[0]);
    for (size_t c = kLeft; c < row.size(); ++c) line += fmt::format("  {:<{}}", row[c], width[c]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += (text.empty() ? "" : "\n") + line;
  }
  return text;
}

}  // namespace kt
