#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/comm/transport.h"
#include "runtime/doctor/finding.h"
#include "runtime/doctor/site.h"

namespace kt {

// What should be alike on all ranks, by name: "kernels" -> "avx512-bf16".
using Facts = std::map<std::string, std::string>;
Facts facts_of(const Site& site);

// What a rank says of itself and, if it is the first one of its machine, of that.
struct RankReport {
  int rank = 0, machine = 0;
  std::string host;  // and KTMPI_NODE, where that is set
  Facts facts;
  std::map<std::string, int64_t> files;  // of the model's folder, with their bytes
  Findings findings;
};
RankReport make_report(const Site& site, const Transport& transport, Findings findings);

// Of every rank, by rank. All ranks call it at the same point.
std::vector<RankReport> gather_reports(Transport& transport, const RankReport& mine);

// Where ranks differ, with who has what.
Findings find_differences(const std::vector<RankReport>& reports);

// Between machines: whether each rank reaches rank 0 by TCP, how fast messages are, and how far clocks are apart. All
// ranks call it at the same point; only rank 0's answer counts for clocks and messages. `way`: what `transport` is,
// "MPI".
Findings check_connections(Transport& transport, std::string_view way);

}  // namespace kt
