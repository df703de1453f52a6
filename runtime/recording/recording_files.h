#pragma once

#include <deque>
#include <filesystem>

#include "runtime/recording/recorder.h"

namespace kt {

// The files of a recording, for torch.load and for read_counts. P is the number of passes that are kept, whether there
// were as many or not (what is left over is zero), or, of a recorder that keeps all, the number there were.
//   stat  {"rank": 0, "logical_count": int32 [P, layers, experts], "average_utilization_rate_over_window": None}
//   records  {"records": [...], "last_physical_to_logical_map": int64 [layers, experts]}, each record
//       {"forward_pass_id", "rank": 0, "gatherer_key": "primary", "global_physical_count": int32 [layers, experts]}
//       and of mode per_token also "topk_ids_of_layer": int32 [layers, rows, top_k], "forward_mode" (1: prompts,
//       2: answers, 3: both) and, as lists, "input_ids", "positions" and "extend_seq_lens" (tokens of each sequence)
//   hot sets  {"gpu_expert_masks": bool [P, layers, experts]}: true where an expert was hot, and all over dense layers
// Physical and logical experts are the same here. Throws Error(kExitUsage) when a file cannot be written.
using RecordedPasses = std::deque<RecordedPass>;
void write_stat(const std::filesystem::path& file, const RecorderConfig& config, const RecordedPasses& passes);
void write_records(const std::filesystem::path& file, const RecorderConfig& config, const RecordedPasses& passes);
void write_hot_sets(const std::filesystem::path& file, const RecorderConfig& config, const RecordedPasses& passes);

}  // namespace kt
