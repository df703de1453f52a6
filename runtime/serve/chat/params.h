#pragma once

#include <optional>
#include <string_view>

#include "runtime/engine/request.h"
#include "runtime/serve/chat/answer_format.h"
#include "runtime/serve/fields.h"
#include "runtime/serve/service.h"

namespace kt {

inline constexpr int kMaxChoices = 128;                        // of one prompt
inline constexpr size_t kMaxRequestChoices = 1024;             // of all its prompts
inline constexpr size_t kMaxRequestTokens = size_t{16} << 20;  // of their prompts, each choice having its own
inline constexpr int kMaxTopLogprobs = 20;
inline constexpr size_t kMaxStops = 16, kMaxStopBytes = 256;
inline constexpr size_t kMaxStopTokens = 256, kMaxLogitBias = 4096;
inline constexpr size_t kMaxIdBytes = 256, kMaxModelNameBytes = 1024, kMaxSaltBytes = 1024;

// The members of a request that steer sampling and have the same name in every dialect: temperature, top_p, top_k,
// min_p, the penalties, stop, stop_regex, stop_token_ids, logit_bias, ignore_eos, skip_special_tokens, no_stop_trim
// (vLLM's include_stop_str_in_output too).
// `sampling` comes in with the defaults. Throws BadRequest.
void read_sampling(const Fields& fields, int vocab, SamplingParams& sampling);

// The members that say when and beside whom a request runs: priority, timeout in seconds, and cache_salt and extra_key,
// which keep its cached prefixes from requests with others.
void read_scheduling(const Fields& fields, GenerateRequest& request);

// The model's own defaults.
SamplingParams model_sampling(const ServedModel& model);

// A stop string or a list of them.
std::vector<std::string> read_stop(const Json& value, const std::string& path);

// Any 64-bit integer; a negative one stands for its bits.
void read_seed(const Fields& fields, std::string_view name, std::optional<uint64_t>& seed);

// A most of new tokens, from `least` on; -1, like absence: as many as fit.
void read_max_tokens(const Fields& fields, std::string_view name, int least, int& max_tokens);

// Emissions in one event of a stream: `stream_interval`, else 1.
int read_stream_interval(const Fields& fields);

// vLLM's `truncate_prompt_tokens` of a prompt, its last ones unless `truncation_side` says "right"; -1: what leaves
// room for the answer. True when something was cut off.
bool truncate_prompt(const Fields& fields, int max_context, const SamplingParams& sampling, std::vector<int32_t>& ids);

// min_tokens <= max_tokens, after both were read.
void check_token_limits(const Fields& fields, std::string_view min_name, const SamplingParams& sampling);

// n copies of `request`, one per choice. With a seed the choices draw from seed, seed + 1, ...: the same seed would
// give the same text n times. Each copy's rid is that of the request, from the second on with "-1", "-2", ... Throws
// BadRequest when `out` would have too many.
void append_choices(const GenerateRequest& request, int n, std::vector<GenerateRequest>& out);

// Orders `format`, if there is one, for the job's requests from `first` on. Throws BadRequest when the model cannot.
void order_grammar(const std::optional<AnswerFormat>& format, const ServedModel& model, size_t first, Job& job);

// A token list of a client: not empty, every id below vocab.
std::vector<int32_t> read_token_ids(const Json& value, const std::string& path, int vocab);

}  // namespace kt
