#pragma once

#include "runtime/rank/job.h"

namespace kt {

// Going on without lost expert ranks (on-lost-expert-rank: go-on). An expert rank holds nothing that others need but
// its experts, so where others hold copies of all of them, the step in which it is lost is undone, the ranks that
// remain make their ways to each other anew, and that step is taken again; no weights move. Who goes are the ranks of a
// team together, since each of them holds a part of the same experts. Rank 0 decides, and the lifeline tells the
// others.

// That the job could lose any one team of expert ranks that are no trunk ranks, and that its launcher lets it. Throws
// Error(kExitUsage) naming the expert that would be lost.
void check_losses(const JobRank& job);

// From here on losses need not be the end: on rank 0 once clients are served, elsewhere once steps are followed.
void watch_losses(JobRank& job);

// After a step was left since other ranks could not be reached: waits for what the lifeline says of it. True: this rank
// is ready for steps without those that were lost. False: the job ends.
bool regroup(JobRank& job);

// Without which this job goes on. Any thread may ask.
std::vector<int> lost_ranks(JobRank& job);

}  // namespace kt
