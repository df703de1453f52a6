#pragma once

#include "runtime/rank/job.h"

namespace kt {

// What every rank is and where: a table of host, NUMA node, cores, device and role, after place() has chosen them. All
// ranks call it at the same point; each gets the text.
std::string rank_map(const JobRank& job);

}  // namespace kt
