#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace kt {

// Everything a run was asked for, after defaults < YAML < command line. Field names are the options' names; options.cpp
// is the table of them. Absent optionals were not given: the default depends on the model or the machine and is decided
// where it is used.
struct RunConfig {
  // model
  std::string model;                 // folder
  std::string tokenizer_path;        // "" becomes model
  std::string chat_template;         // "": the model's
  std::string served_model_name;     // "" becomes model
  std::string load_format = "auto";  // auto, dummy
  std::optional<int> context_length;
  // serving
  std::string host = "127.0.0.1";
  std::string allowed_hosts;    // names, split by commas
  std::string allowed_origins;  // likewise
  int port = 30000;
  std::string api_key, api_key_file, admin_api_key;
  std::string url_file;
  bool incremental_streaming_output = false;
  double ping_interval_s = 0.0;  // 0: none but Anthropic's
  std::string log_level = "info", log_format = "text";
  std::string tool_call_parser = "none", reasoning_parser = "none";
  // scheduling
  std::optional<int> max_running_requests, max_total_tokens, chunked_prefill_size, max_queued_requests;
  int max_requests_per_key = 64;  // 0: any
  std::optional<double> mem_fraction_static;
  bool enable_mixed_chunk = false, disable_radix_cache = false;
  std::optional<double> max_decode_stall_ms;  // 0: no bound
  double request_timeout_s = 0.0;             // 0: none but the client's own
  double request_idle_timeout_s = 3600.0;
  bool enable_priority_scheduling = false;
  // ranks
  std::string device = "cpu";  // auto, cuda, cpu
  int tensor_parallel_size = 1;
  std::optional<int> kt_threadpool_count, kt_cpuinfer, trunk_threads;
  std::vector<int> kt_numa_nodes;
  int threads_per_core = 1;
  std::string comm_interface;               // names that ranks speak over, split by commas; empty: all
  std::string transport = "auto";           // auto, mpi, ucx, local
  std::string dispatch_dtype = "exact";     // exact, float32, bf16
  std::string on_lost_expert_rank = "end";  // end, go-on
  std::string trunk_method = "model";       // model, int8, int4, fp8
  std::string trunk_matmul = "exact";       // exact, tensor
  std::string trunk_sums = "auto";          // auto, nccl, host
  // experts
  std::string kt_weight_path;  // "" becomes model
  std::string keep_bank;       // folder
  std::string kt_method = "auto";
  std::string expert_layout = "hybrid", bank = "shard";  // shard, replicate
  std::optional<int> sliced_below;                       // rows of a step, on replicated banks
  int ep_num_redundant_experts = 0;
  std::optional<int> kt_num_gpu_experts;
  std::optional<double> kt_gpu_experts_ratio;
  std::string kt_expert_placement_strategy = "uniform", init_expert_location = "trivial", hot_weights = "bank";
  bool kt_enable_dynamic_expert_update = false;
  std::string kt_expert_update_rule = "average", kt_expert_statistics;
  std::string kt_gpu_prefill_token_threshold = "0";  // a number of tokens, with ! to insist, or auto
  int kt_max_deferred_experts_per_token = 0;
  std::string expert_distribution_recorder_mode = "stat";
  int expert_distribution_recorder_buffer_size = 1000;
  bool record_kt_gpu_expert_distribution = false;
  double step_timeout_s = 60.0, drain_timeout_s = 30.0, peer_timeout_s = 8.0;

  // Prompt tokens from which on cold experts come to the trunk: 0 never, -1 as measured. With a trunk on the CPU, whose
  // memory they are in already, a number of kt-gpu-prefill-token-threshold is taken for auto unless it insists.
  int prefill_threshold() const;
  // Prompt tokens from which on a step may re-choose the hot experts; 0: those of steps whose cold experts come.
  int update_threshold() const;
  // Hot experts are exchanged while steps go on; KTransformers' rule does it at once.
  bool moves_beside_steps() const { return kt_enable_dynamic_expert_update && kt_expert_update_rule != "chunk"; }

  std::vector<std::string> warnings;  // one line per accepted option that has no meaning here, with the reason
};

// A plan describes what this program cannot run yet: options that are not built are taken with a line in `warnings`.
enum class Intent : uint8_t { run, plan };

// Reads the command line (argv[0] is the command's name) and the YAML file that its --config names. Throws
// Error(kExitUsage) with one line for everything that is wrong: where it was asked for, what was expected and found.
// From here on the process logs as log-level and log-format say, also what is wrong.
RunConfig parse_run_config(int argc, char** argv);
RunConfig parse_run_config(std::span<const std::string> arguments, Intent intent = Intent::run);  // without argv[0]

std::string run_config_help();                 // all options in groups, for --help
std::string to_json(const RunConfig& config);  // an object, option names with underscores, keys and secrets masked

}  // namespace kt
