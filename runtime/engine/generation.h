#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine/answer_text.h"
#include "runtime/engine/request.h"
#include "runtime/engine/sampler.h"
#include "runtime/text/grammars/grammar.h"
#include "runtime/text/tokens/tokenizer.h"

namespace kt {

// One request from its first step to its last emission: what was made so far and when it is enough.
class Generation {
 public:
  // `max_new_tokens` is the request's, clamped to what fits.
  Generation(const GenerateRequest& request, OnEmission on_emission, const Tokenizer& tokenizer,
             std::span<const int32_t> eos, int max_new_tokens, uint64_t fresh_seed);

  const SamplingParams& sampling() const { return sampling_; }
  const SamplerState& sampler() const { return sampler_; }
  std::span<const uint32_t> allowed() { return grammar_ ? grammar_->allowed() : std::span<const uint32_t>(); }
  bool wants_logprobs() const { return return_logprob_; }
  int top_logprobs() const { return top_logprobs_; }
  int made() const { return made_; }
  bool complete() const { return made_ >= max_new_tokens_; }

  void set_cached_tokens(int tokens) { cached_tokens_ = tokens; }
  void set_queue_time(double seconds) { queue_s_ = seconds; }
  // Emits how far the prompt is if that is wanted and no token was made: a retracted request reads its prompt again.
  void tell_progress(int read, std::chrono::steady_clock::time_point now);
  void add_prompt_logprob(TokenLogprob token) { prompt_.push_back(std::move(token)); }
  // Emits the token; true if it was the last. What is complete with the last token that may come has ended by itself:
  // a stop token comes before a stop string, that before length.
  bool add_token(TokenLogprob token);
  // The last emission, with the text held back so far.
  void end(Finish finish);

 private:
  bool stops(int32_t token) const;
  Finish finish_after(int32_t token) const;
  void emit(std::string text, std::vector<TokenLogprob> tokens, std::optional<Finish> finish);

  SamplingParams sampling_;
  SamplerState sampler_;
  std::optional<GrammarWalk> grammar_;
  OnEmission on_emission_;
  const Tokenizer& tokenizer_;
  std::vector<int32_t> stop_ids_;  // sorted
  AnswerText text_;
  bool return_logprob_, report_progress_;
  int top_logprobs_, max_new_tokens_, prompt_tokens_, cached_tokens_ = 0, made_ = 0;
  double queue_s_ = 0;
  std::optional<std::chrono::steady_clock::time_point> reading_since_;
  std::vector<TokenLogprob> prompt_;
};

}  // namespace kt
