#include "runtime/serve/openai/openai.h"

#include <fmt/format.h>

#include <chrono>

#include "runtime/serve/chat/params.h"
#include "runtime/serve/errors.h"
#include "runtime/serve/unsupported.h"

namespace kt {
namespace {

Json logprob_entry(int32_t id, float logprob, const Tokenizer& tokenizer) {
  Json bytes = Json::array();
  for (const char c : tokenizer.bytes(id)) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", token_text(tokenizer, id)}, {"bytes", std::move(bytes)}, {"logprob", json_logprob(logprob)}};
}

// To choose among more samples than are sent takes all of them to the end.
void check_best_of(const Fields& fields, int n) {
  int best_of = n;
  fields.read("best_of", best_of, 1);
  if (best_of < n) throw BadRequest("best_of", fmt::format("best_of: {} is less than the {} of n", best_of, n));
  if (best_of > n)
    throw BadRequest("best_of", "best_of: this server sends every sample that it makes; use \"n\"", "unsupported");
}

}  // namespace

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

OpenAiRequest read_openai_request(const Fields& fields) {
  refuse_unsupported(fields);
  OpenAiRequest request;
  request.created = unix_seconds();
  for (const char* name : {"rid", "request_id"})
    if (request.id.empty()) fields.read(name, request.id, kMaxIdBytes);
  if (request.id.empty()) request.id = random_id();
  fields.read("model", request.model, kMaxModelNameBytes);
  fields.read("n", request.n, 1, kMaxChoices);
  check_best_of(fields, request.n);
  fields.read("stream", request.stream);
  request.stream_interval = read_stream_interval(fields);
  fields.read("return_progress", request.return_progress);
  if (const Json* options = fields.find("stream_options")) {
    const Fields stream_options(*options, "stream_options");
    stream_options.read("include_usage", request.include_usage);
    stream_options.read("continuous_usage_stats", request.continuous_usage_stats);
  }
  return request;
}

void read_openai_sampling(const Fields& fields, int vocab, std::initializer_list<std::string_view> max_tokens,
                          int least, SamplingParams& sampling) {
  read_sampling(fields, vocab, sampling);
  read_seed(fields, "seed", sampling.seed);
  for (const std::string_view name : max_tokens) read_max_tokens(fields, name, least, sampling.max_new_tokens);
  fields.read("min_tokens", sampling.min_new_tokens, 0);
  check_token_limits(fields, "min_tokens", sampling);
}

Json to_json(const Usage& usage) {
  Json json = {{"prompt_tokens", usage.prompt_tokens},
               {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
               {"completion_tokens", usage.completion_tokens},
               {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
               {"reasoning_tokens", usage.reasoning_tokens}};
  if (usage.reasoning_tokens > 0) json["completion_tokens_details"] = {{"reasoning_tokens", usage.reasoning_tokens}};
  return json;
}

Json prompt_progress(const Emission& emission) {
  return {{"total", emission.prompt_tokens},
          {"cache", emission.cached_tokens},
          {"processed", emission.progress->read},
          {"time_ms", static_cast<int64_t>(1000 * emission.progress->seconds)}};
}

Json finish_reason(const std::optional<Finish>& finish) {
  if (!finish) return nullptr;
  return finish->kind == Finish::Kind::length ? "length" : "stop";
}

Json matched_stop(const std::optional<Finish>& finish) {
  if (!finish) return nullptr;
  if (const int32_t* id = std::get_if<int32_t>(&finish->matched)) return *id;
  if (const std::string* text = std::get_if<std::string>(&finish->matched)) return *text;
  return nullptr;
}

Json logprob_entries(const std::vector<TokenLogprob>& tokens, const Tokenizer& tokenizer) {
  Json entries = Json::array();
  for (const TokenLogprob& token : tokens) {
    Json entry = logprob_entry(token.id, token.logprob, tokenizer);
    Json& top = entry["top_logprobs"] = Json::array();
    for (const auto& [id, logprob] : token.top) top.push_back(logprob_entry(id, logprob, tokenizer));
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::string token_text(const Tokenizer& tokenizer, int32_t id) {
  Utf8Stream stream;
  std::string text = stream.push(tokenizer.bytes(id));
  return text + stream.flush();
}

}  // namespace kt
