#pragma once

#include "runtime/rank/job.h"

namespace kt {

// What keep-bank asks for, step by step.

// This rank's share of the experts, and the kept bank that an earlier start of the same program, weights and share may
// have filled. Throws as KeptBank does.
void find_kept_bank(JobRank& job);

// What kept banks of this machine's ranks hold already of its memory, and what they will add. All ranks call it.
void count_kept_banks(JobRank& job);

// The folder has room for what is added; else Error(kExitUsage).
void check_bank_folder(const JobRank& job);

}  // namespace kt
