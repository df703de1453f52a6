#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine/request.h"
#include "runtime/serve/fields.h"
#include "runtime/serve/json.h"
#include "runtime/serve/service.h"

namespace kt {

// What /v1/chat/completions and /v1/completions have in common.
struct OpenAiRequest {
  std::string id, model = "default";
  int64_t created = 0;  // seconds since 1970
  int n = 1;
  bool stream = false;
  bool include_usage = false;           // streams: a last chunk with the usage
  bool continuous_usage_stats = false;  // streams: the usage so far in every chunk but the finish
  bool return_progress = false;         // streams: chunks that tell how far the prompt is
  int stream_interval = 1;              // streams: tokens of one chunk
  bool logprobs = false;
  int top_logprobs = 0;
};

int64_t unix_seconds();

// id, model, created, n, best_of, stream, stream_options, stream_interval, return_progress. Throws BadRequest, also for
// what this server cannot do.
OpenAiRequest read_openai_request(const Fields& fields);

// On top of what is in `sampling`: the members that all of OpenAI's requests have, and how many tokens at most, in
// whichever of `max_tokens` is there; from `least` on. Throws BadRequest.
void read_openai_sampling(const Fields& fields, int vocab, std::initializer_list<std::string_view> max_tokens,
                          int least, SamplingParams& sampling);

// One choice of an answer under way.
struct ChoiceState {
  std::string text;  // not kept by streams
  std::vector<TokenLogprob> tokens;
  std::vector<TokenLogprob> prompt;
  int completion_tokens = 0;
  std::optional<Finish> finish;
};

// Token counts of a whole request; a prompt counts once, however many choices it has.
struct Usage {
  int prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0, reasoning_tokens = 0;
};
Json to_json(const Usage& usage);

// Member "prompt_progress" of a chunk before the first token; its names are those of llama.cpp.
Json prompt_progress(const Emission& emission);

// "stop", "length"; a request ended by /abort_request keeps its text and says "stop", a word that clients know.
Json finish_reason(const std::optional<Finish>& finish);
Json matched_stop(const std::optional<Finish>& finish);  // id, string or null

// One entry for each token: token, bytes, logprob, top_logprobs.
Json logprob_entries(const std::vector<TokenLogprob>& tokens, const Tokenizer& tokenizer);

// Text of one token as a client shows it: U+FFFD for parts of characters.
std::string token_text(const Tokenizer& tokenizer, int32_t id);

}  // namespace kt
