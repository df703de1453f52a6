#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace kt {

class Grammar;          // runtime/text/grammars/grammar.h
class ReasoningParser;  // runtime/text/answers/reasoning_parser.h
class StopAutomaton;    // runtime/text/answers/stop_automaton.h

// How the next token is chosen. Ranges are checked where a request enters (serve/); the sampler trusts them.
// Order on the logits of one step, as SGLang does it: penalties, min_new_tokens, grammar, logit_bias, temperature,
// softmax, top_k, top_p, min_p, draw. temperature < 1e-6 is greedy.
struct SamplingParams {
  float temperature = 1.0f;
  float top_p = 1.0f;
  int top_k = -1;  // -1: all
  float min_p = 0.0f;
  float frequency_penalty = 0.0f;   // times the count in the output
  float presence_penalty = 0.0f;    // once if in the output
  float repetition_penalty = 1.0f;  // divides positive, multiplies negative logits of prompt and output tokens
  std::optional<uint64_t> seed;     // draws depend on (seed, position) alone; absent: a fresh seed per request
  std::vector<std::pair<int32_t, float>> logit_bias;
  int max_new_tokens = -1;  // -1: as many as the context holds; the engine clamps to what fits
  int min_new_tokens = 0;
  std::vector<std::string> stop;
  std::shared_ptr<const StopAutomaton> stop_regex;   // null: none
  std::shared_ptr<const ReasoningParser> reasoning;  // with what the text begins, where stops do not count; null: none
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;  // also ignores stop_token_ids; the end of a grammar's text is no matter of choice
  bool skip_special_tokens = true;
  bool no_stop_trim = false;  // keep what matched stop or stop_regex in the text
};

// One sampled or given token with the natural-log probability the model gave it (raw logits: no temperature, no
// penalties, no grammar, so that `top` may list tokens that the answer could not have).
struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0f;
  std::vector<std::pair<int32_t, float>> top;  // the most probable tokens and their logprobs, best first
};

struct GenerateRequest {
  std::string rid;  // unique; the client's, or made by the server
  std::vector<int32_t> input_ids;
  SamplingParams sampling;
  std::shared_ptr<const Grammar> grammar;  // what the answer's text must match; stops may cut it. Null: anything
  bool return_logprob = false;
  int top_logprobs = 0;
  int logprob_start = -1;        // first prompt position whose logprob is wanted; -1: none
  int priority = 0;              // a point gets ahead of all who wait, see Scheduler
  double deadline_s = 0;         // from submit on; then it ends, wherever it is; 0: none
  std::string cache_salt;        // shares cached prefixes only with requests that have the same
  std::string client;            // whose it is: clients take turns in the queue
  bool report_progress = false;  // emissions also tell how far the prompt is
};

struct Finish {
  enum class Kind : uint8_t { stop, length, abort, error, timeout };
  Kind kind = Kind::stop;
  std::variant<std::monostate, int32_t, std::string> matched;  // stop token, stop string or pattern
  std::string message;                                         // abort, error, timeout: why
};

// How far a prompt is, before the step that goes on with it.
struct PromptProgress {
  int read = 0;        // tokens, those found in the cache among them
  double seconds = 0;  // since the first step
};

// What became of a request since the last emission. The last emission of a request, and only that, has `finish`.
struct Emission {
  std::string text;                  // whole characters only; what stops it is held back and cut
  std::vector<TokenLogprob> tokens;  // all sampled tokens of this emission, also those that show no text
  std::vector<TokenLogprob> prompt;  // from max(logprob_start, 1) on, once, with the first token
  int prompt_tokens = 0;
  int cached_tokens = 0;                   // of the prompt, that were not computed again
  int completion_tokens = 0;               // so far
  double queue_s = 0;                      // from submit to its first step; 0 before that
  std::optional<PromptProgress> progress;  // of an emission before the first token that has nothing else to tell
  std::optional<Finish> finish;
};
using OnEmission = std::function<void(Emission)>;  // called on the engine's thread; must not block

// Why a request was not taken; nothing of it remains in the engine.
struct Rejection {
  int http_status = 400;  // 400 cannot ever fit, 429 queue full, 503 draining
  std::string message;
};

}  // namespace kt
