#include "runtime/engine/generation.h"

#include <algorithm>
#include <utility>

namespace kt {
namespace {

StopAutomaton text_stops(const SamplingParams& sampling) {
  StopAutomaton stops = sampling.stop_regex ? *sampling.stop_regex : StopAutomaton();
  for (const std::string& text : sampling.stop) stops.add_text(text);
  return stops;
}

}  // namespace

Generation::Generation(const GenerateRequest& request, OnEmission on_emission, const Tokenizer& tokenizer,
                       std::span<const int32_t> eos, int max_new_tokens, uint64_t fresh_seed)
    : sampling_(request.sampling),
      sampler_(make_sampler_state(request, eos, fresh_seed)),
      on_emission_(std::move(on_emission)),
      tokenizer_(tokenizer),
      text_(text_stops(request.sampling), request.sampling.no_stop_trim, request.sampling.reasoning.get()),
      return_logprob_(request.return_logprob),
      report_progress_(request.report_progress),
      top_logprobs_(request.top_logprobs),
      max_new_tokens_(max_new_tokens),
      prompt_tokens_(static_cast<int>(request.input_ids.size())) {
  if (request.grammar) grammar_.emplace(request.grammar);
  if (grammar_ || !sampling_.ignore_eos) stop_ids_.assign(eos.begin(), eos.end());
  if (!sampling_.ignore_eos)
    stop_ids_.insert(stop_ids_.end(), sampling_.stop_token_ids.begin(), sampling_.stop_token_ids.end());
  std::sort(stop_ids_.begin(), stop_ids_.end());
}

void Generation::tell_progress(int read, std::chrono::steady_clock::time_point now) {
  if (!report_progress_ || made_ > 0) return;
  if (!reading_since_) reading_since_ = now;
  const double seconds = std::chrono::duration<double>(now - *reading_since_).count();
  on_emission_({.prompt_tokens = prompt_tokens_,
                .cached_tokens = cached_tokens_,
                .queue_s = queue_s_,
                .progress = PromptProgress{.read = read, .seconds = seconds}});
}

bool Generation::add_token(TokenLogprob token) {
  const int32_t id = token.id;
  ++made_;
  count_output(sampler_, sampling_, id);
  if (grammar_) grammar_->accept(id);
  const bool hidden =
      (stops(id) && !sampling_.no_stop_trim) || (sampling_.skip_special_tokens && tokenizer_.is_special(id));
  std::string text = hidden ? "" : text_.push(tokenizer_.bytes(id));
  const bool last = complete() || stops(id) || text_.matched();
  if (last) text += text_.flush();
  std::vector<TokenLogprob> tokens;
  tokens.push_back(std::move(token));
  emit(std::move(text), std::move(tokens), last ? std::optional(finish_after(id)) : std::nullopt);
  return last;
}

void Generation::end(Finish finish) { emit(text_.flush(), {}, std::move(finish)); }

bool Generation::stops(int32_t token) const { return std::binary_search(stop_ids_.begin(), stop_ids_.end(), token); }

Finish Generation::finish_after(int32_t token) const {
  if (stops(token)) return {.kind = Finish::Kind::stop, .matched = token, .message = {}};
  if (text_.matched()) return {.kind = Finish::Kind::stop, .matched = *text_.matched(), .message = {}};
  return {.kind = Finish::Kind::length, .matched = {}, .message = {}};
}

void Generation::emit(std::string text, std::vector<TokenLogprob> tokens, std::optional<Finish> finish) {
  on_emission_({.text = std::move(text),
                .tokens = std::move(tokens),
                .prompt = std::exchange(prompt_, {}),
                .prompt_tokens = prompt_tokens_,
                .cached_tokens = cached_tokens_,
                .completion_tokens = made_,
                .queue_s = queue_s_,
                .finish = std::move(finish)});
}

}  // namespace kt
