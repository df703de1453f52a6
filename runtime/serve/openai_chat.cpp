#include "runtime/serve/openai_chat.h"

#include <fmt/format.h>

#include "runtime/serve/messages.h"
#include "runtime/serve/openai.h"
#include "runtime/serve/params.h"

namespace kt {
namespace {

// What a piece of text is to the client. Parsers for reasoning and tool calls will fill more than content.
struct Delta {
  std::string content;
};

class ChatAnswer : public Answer {
 public:
  ChatAnswer(OpenAiRequest request, int prompt_tokens, const Tokenizer& tokenizer)
      : request_(std::move(request)), tokenizer_(tokenizer), choices_(static_cast<size_t>(request_.n)) {
    usage_.prompt_tokens = prompt_tokens;
  }

  std::string start() override {
    std::string events;
    for (size_t i = 0; i < choices_.size(); ++i)
      events +=
          event(choice_chunk(i, {{"role", "assistant"}, {"content", ""}}, nullptr), request_.continuous_usage_stats);
    return events;
  }

  std::string take(size_t index, Emission emission) override {
    ChoiceState& choice = choices_[index];
    usage_.cached_tokens = std::max(usage_.cached_tokens, emission.cached_tokens);
    usage_.completion_tokens += emission.completion_tokens - choice.completion_tokens;
    choice.completion_tokens = emission.completion_tokens;
    choice.finish = std::move(emission.finish);
    const Delta delta = read_text(std::move(emission.text));
    if (!request_.stream) {
      choice.text += delta.content;
      if (request_.logprobs)
        std::move(emission.tokens.begin(), emission.tokens.end(), std::back_inserter(choice.tokens));
      return "";
    }
    const bool tokens_to_show = request_.logprobs && !emission.tokens.empty();
    if (delta.content.empty() && !tokens_to_show) return "";
    return event(choice_chunk(index, {{"content", delta.content}}, logprobs(emission.tokens)),
                 request_.continuous_usage_stats);
  }

  std::string finish() override { return request_.stream ? last_events() : body(); }

 private:
  // All text of a choice passes here on its way to the client.
  Delta read_text(std::string text) { return {.content = std::move(text)}; }

  Json logprobs(const std::vector<TokenLogprob>& tokens) const {
    if (!request_.logprobs) return nullptr;
    Json content = Json::array();
    for (const TokenLogprob& token : tokens) {
      Json entry = logprob_entry(token.id, token.logprob);
      Json& top = entry["top_logprobs"] = Json::array();
      for (const auto& [id, logprob] : token.top) top.push_back(logprob_entry(id, logprob));
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}};
  }

  Json logprob_entry(int32_t id, float logprob) const {
    Json bytes = Json::array();
    for (const char c : tokenizer_.bytes(id)) bytes.push_back(static_cast<unsigned char>(c));
    return {{"token", token_text(tokenizer_, id)}, {"bytes", std::move(bytes)}, {"logprob", json_logprob(logprob)}};
  }

  Json choice_chunk(size_t index, Json delta, Json logprobs) const {
    return {{"index", index},
            {"delta", std::move(delta)},
            {"logprobs", std::move(logprobs)},
            {"finish_reason", nullptr},
            {"matched_stop", nullptr}};
  }

  Json chunk(Json choices) const {
    return {{"id", request_.id},
            {"object", "chat.completion.chunk"},
            {"created", request_.created},
            {"model", request_.model},
            {"choices", std::move(choices)}};
  }

  std::string event(Json choice, bool with_usage) const {
    Json json = chunk(Json::array({std::move(choice)}));
    if (with_usage) {
      json["usage"] = to_json(usage_);
    } else if (request_.include_usage) {
      json["usage"] = nullptr;
    }
    return sse(json);
  }

  // Finish chunks have an empty delta: clients take text that comes with a finish_reason for an error.
  std::string last_events() const {
    std::string events;
    for (size_t i = 0; i < choices_.size(); ++i) {
      Json choice = choice_chunk(i, Json::object(), nullptr);
      choice["finish_reason"] = finish_reason(choices_[i].finish);
      choice["matched_stop"] = matched_stop(choices_[i].finish);
      events += event(std::move(choice), false);
    }
    if (request_.include_usage) {
      Json json = chunk(Json::array());
      json["usage"] = to_json(usage_);
      events += sse(json);
    }
    return events.append(kSseDone);
  }

  std::string body() const {
    Json choices = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) {
      const ChoiceState& choice = choices_[i];
      choices.push_back({{"index", i},
                         {"message",
                          {{"role", "assistant"},
                           {"content", choice.text.empty() ? Json(nullptr) : Json(choice.text)},
                           {"reasoning_content", nullptr},
                           {"tool_calls", nullptr}}},
                         {"logprobs", logprobs(choice.tokens)},
                         {"finish_reason", finish_reason(choice.finish)},
                         {"matched_stop", matched_stop(choice.finish)}});
    }
    return dump({{"id", request_.id},
                 {"object", "chat.completion"},
                 {"created", request_.created},
                 {"model", request_.model},
                 {"choices", std::move(choices)},
                 {"usage", to_json(usage_)},
                 {"metadata", {{"weight_version", "default"}}}});
  }

  OpenAiRequest request_;
  const Tokenizer& tokenizer_;
  std::vector<ChoiceState> choices_;
  Usage usage_;
};

// The model's own defaults, then the request's values.
SamplingParams read_chat_sampling(const Fields& fields, const ServedModel& model) {
  const SamplingDefaults& defaults = model.defaults;
  SamplingParams sampling;
  sampling.temperature = defaults.temperature.value_or(sampling.temperature);
  sampling.top_p = defaults.top_p.value_or(sampling.top_p);
  sampling.top_k = defaults.top_k.value_or(sampling.top_k);
  sampling.min_p = defaults.min_p.value_or(sampling.min_p);
  sampling.repetition_penalty = defaults.repetition_penalty.value_or(sampling.repetition_penalty);
  sampling.skip_special_tokens = !uses_tools(fields);  // a call's markup is worth nothing without its special tokens
  read_sampling(fields, model.vocab, sampling);
  read_seed(fields, "seed", sampling.seed);
  fields.read("max_tokens", sampling.max_new_tokens, 1);
  fields.read("max_completion_tokens", sampling.max_new_tokens, 1);
  fields.read("min_tokens", sampling.min_new_tokens, 0);
  check_token_limits(fields, "min_tokens", sampling);
  return sampling;
}

Job read_chat(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  OpenAiRequest request = read_openai_request(fields);
  fields.read("logprobs", request.logprobs);
  fields.read("top_logprobs", request.top_logprobs, 0, kMaxTopLogprobs);
  if (request.top_logprobs > 0 && !request.logprobs)
    throw BadRequest("top_logprobs", "top_logprobs: needs \"logprobs\": true");
  refuse_unsupported(fields);

  GenerateRequest generate;
  generate.rid = request.id;
  generate.sampling = read_chat_sampling(fields, model);
  generate.return_logprob = request.logprobs;
  generate.top_logprobs = request.top_logprobs;
  generate.priority = request.priority;
  generate.input_ids = model.tokenizer->encode(render_chat(fields, model));
  if (generate.input_ids.empty()) throw BadRequest("messages", "messages: the rendered prompt is empty");

  Job job{.id = request.id, .prompt_param = "messages", .stream = request.stream};
  append_choices(generate, request.n, job.requests);
  const int prompt_tokens = static_cast<int>(generate.input_ids.size());
  job.answer = std::make_unique<ChatAnswer>(std::move(request), prompt_tokens, *model.tokenizer);
  return job;
}

}  // namespace

OrError<Job> parse_chat(std::string_view body, const ServedModel& model) {
  return or_error([&] { return read_chat(parse_body(body), model); });
}

}  // namespace kt
