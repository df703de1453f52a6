#pragma once

#include <filesystem>

#include "runtime/placement/placement.h"

namespace kt {

// Counts from a file, of either kind:
//   JSON, ktmpi's own: {"ktmpi_expert_counts": 1, "layers": L, "experts": E, "counts": [[...], ...]}, L rows of E whole
//     numbers; rows of layers without experts hold zeros
//   torch.save's: a tensor [passes, L, E] or [L, E], or a dict that has one under "logical_count" (a recording in mode
//     stat), or a list of passes under "records" that have [L, E] under "global_physical_count" (per_pass, per_token);
//     passes are added up
// Throws Error(kExitUsage), with what is wrong, for everything else.
ExpertCounts read_counts(const std::filesystem::path& path);

// Writes the JSON. The file is replaced at once, as a whole. Throws Error(kExitUsage) when it cannot be.
void write_counts(const std::filesystem::path& path, const ExpertCounts& counts);

}  // namespace kt
