#include "runtime/serve/openai/openai_chat.h"

#include <fmt/format.h>

#include "runtime/serve/chat/answer_reader.h"
#include "runtime/serve/chat/messages.h"
#include "runtime/serve/chat/params.h"
#include "runtime/serve/openai/openai.h"
#include "runtime/serve/unsupported.h"

namespace kt {
namespace {

struct ChatRequest : OpenAiRequest {
  bool include_reasoning = true;
};

class ChatAnswer : public Answer {
 public:
  ChatAnswer(ChatRequest request, const Chat& chat, int prompt_tokens, const Tokenizer& tokenizer)
      : request_(std::move(request)), tokenizer_(tokenizer) {
    for (int i = 0; i < request_.n; ++i) choices_.push_back({.reader = AnswerReader(chat), .tokens = {}});
    usage_.prompt_tokens = prompt_tokens;
  }

  std::string start() override { return ""; }

  std::string take(size_t index, Emission emission) override {
    if (emission.progress) return progress_event(index, emission);
    const std::string role = request_.stream ? begin(index) : "";
    AnswerReader& reader = choices_[index].reader;
    const int had_tokens = reader.completion_tokens, had_reasoning = reader.reasoning_tokens;
    OutputPieces pieces = reader.read(emission);
    if (!request_.include_reasoning)
      std::erase_if(pieces, [](const OutputPiece& piece) { return piece.kind == OutputPiece::Kind::kReasoning; });
    if (index == 0)
      usage_.cached_tokens = std::max(usage_.cached_tokens, emission.cached_tokens);  // a prompt counts once
    usage_.completion_tokens += reader.completion_tokens - had_tokens;
    usage_.reasoning_tokens += reader.reasoning_tokens - had_reasoning;
    if (!request_.stream) {
      if (request_.logprobs)
        std::move(emission.tokens.begin(), emission.tokens.end(), std::back_inserter(choices_[index].tokens));
      return "";
    }
    return role + events(index, pieces, emission.tokens) + end(index);
  }

  std::string finish() override {
    if (!request_.stream) return body();
    return (request_.include_usage ? usage_event() : "").append(kSseDone);
  }

 private:
  struct Choice {
    AnswerReader reader;
    std::vector<TokenLogprob> tokens;  // not kept by streams
    bool begun = false;                // streams: its role was sent
  };

  // The role goes with a choice's first token: clients take the time of the first chunk for that of the first token.
  std::string begin(size_t index) {
    if (std::exchange(choices_[index].begun, true)) return "";
    return event(choice_chunk(index, {{"role", "assistant"}, {"content", ""}}, nullptr),
                 request_.continuous_usage_stats);
  }

  // Finish chunks have an empty delta: clients take text that comes with a finish_reason for an error.
  std::string end(size_t index) const {
    if (!choices_[index].reader.finish) return "";
    Json choice = choice_chunk(index, Json::object(), nullptr);
    set_finish(choice, choices_[index].reader);
    return event(std::move(choice), false);
  }

  // One chunk for each piece. The logprobs go with the first; tokens that show nothing get a chunk without text.
  std::string events(size_t index, const OutputPieces& pieces, const std::vector<TokenLogprob>& tokens) const {
    std::string text;
    for (const OutputPiece& piece : pieces) {
      text += event(choice_chunk(index, delta(index, piece), &piece == &pieces.front() ? logprobs(tokens) : nullptr),
                    request_.continuous_usage_stats);
    }
    if (pieces.empty() && request_.logprobs && !tokens.empty())
      text += event(choice_chunk(index, {{"content", ""}}, logprobs(tokens)), request_.continuous_usage_stats);
    return text;
  }

  // Only what there is to say: clients fall over null roles, names and ids. A call's index comes with every piece.
  Json delta(size_t index, const OutputPiece& piece) const {
    const auto of_call = [](Json call) { return Json{{"tool_calls", Json::array({std::move(call)})}}; };
    switch (piece.kind) {
      case OutputPiece::Kind::kReasoning: return {{"reasoning_content", piece.text}};
      case OutputPiece::Kind::kContent: return {{"content", piece.text}};
      case OutputPiece::Kind::kCallName:
        return of_call({{"index", piece.call},
                        {"id", choices_[index].reader.calls[static_cast<size_t>(piece.call)].id},
                        {"type", "function"},
                        {"function", {{"name", piece.text}, {"arguments", ""}}}});
      case OutputPiece::Kind::kArguments:
        return of_call({{"index", piece.call}, {"function", {{"arguments", piece.text}}}});
    }
    return {};
  }

  Json logprobs(const std::vector<TokenLogprob>& tokens) const {
    if (!request_.logprobs) return nullptr;
    return {{"content", logprob_entries(tokens, tokenizer_)}};
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

  std::string progress_event(size_t index, const Emission& emission) const {
    Json json = chunk(Json::array({choice_chunk(index, Json::object(), nullptr)}));
    json["prompt_progress"] = prompt_progress(emission);
    if (request_.include_usage) json["usage"] = nullptr;
    return sse(json);
  }

  std::string usage_event() const {
    Json json = chunk(Json::array());
    json["usage"] = to_json(usage_);
    return sse(json);
  }

  static void set_finish(Json& choice, const AnswerReader& reader) {
    const bool calls = reader.ends_in_calls();
    choice["finish_reason"] = calls ? Json("tool_calls") : finish_reason(reader.finish);
    choice["matched_stop"] = calls ? Json(nullptr) : matched_stop(reader.finish);
  }

  Json message(const AnswerReader& reader) const {
    const auto or_null = [](const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); };
    Json calls;
    for (const ToolCall& call : reader.whole_calls()) {
      calls.push_back({{"id", call.id},
                       {"index", calls.size()},
                       {"type", "function"},
                       {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    }
    return {{"role", "assistant"},
            {"content", or_null(reader.content)},
            {"reasoning_content", or_null(request_.include_reasoning ? reader.reasoning : "")},
            {"tool_calls", std::move(calls)}};
  }

  std::string body() const {
    Json choices = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) {
      Json choice = {
          {"index", i}, {"message", message(choices_[i].reader)}, {"logprobs", logprobs(choices_[i].tokens)}};
      set_finish(choice, choices_[i].reader);
      choices.push_back(std::move(choice));
    }
    return dump({{"id", request_.id},
                 {"object", "chat.completion"},
                 {"created", request_.created},
                 {"model", request_.model},
                 {"choices", std::move(choices)},
                 {"usage", to_json(usage_)},
                 {"metadata", {{"weight_version", "default"}}}});
  }

  ChatRequest request_;
  const Tokenizer& tokenizer_;
  std::vector<Choice> choices_;
  Usage usage_;
};

// The model's own defaults, then the request's values.
SamplingParams read_chat_sampling(const Fields& fields, const ServedModel& model, const Chat& chat) {
  SamplingParams sampling = model_sampling(model);
  read_openai_sampling(fields, model.vocab, {"max_tokens", "max_completion_tokens"}, 1, sampling);
  adapt_sampling(chat, model, sampling);
  return sampling;
}

Job read_chat(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  ChatRequest request;
  static_cast<OpenAiRequest&>(request) = read_openai_request(fields);
  fields.read("include_reasoning", request.include_reasoning);
  fields.read("logprobs", request.logprobs);
  fields.read("top_logprobs", request.top_logprobs, 0, kMaxTopLogprobs);
  if (request.top_logprobs > 0 && !request.logprobs)
    throw BadRequest("top_logprobs", "top_logprobs: needs \"logprobs\": true");
  refuse_unsupported_in_chat(fields);

  GenerateRequest generate;
  generate.rid = request.id;
  generate.return_logprob = request.logprobs;
  generate.top_logprobs = request.top_logprobs;
  generate.report_progress = request.stream && request.return_progress;
  read_scheduling(fields, generate);
  const Chat chat = render_chat(fields, model);
  generate.sampling = read_chat_sampling(fields, model, chat);
  generate.input_ids = model.tokenizer->encode(chat.prompt);
  truncate_prompt(fields, model.max_context, generate.sampling, generate.input_ids);
  if (generate.input_ids.empty()) throw BadRequest("messages", "messages: the rendered prompt is empty");

  Job job{.id = request.id,
          .prompt_param = "messages",
          .stream = request.stream,
          .stream_interval = request.stream_interval};
  append_choices(generate, request.n, job.requests);
  order_grammar(chat.format, model, 0, job);
  const int prompt_tokens = static_cast<int>(generate.input_ids.size());
  job.answer = std::make_unique<ChatAnswer>(std::move(request), chat, prompt_tokens, *model.tokenizer);
  return job;
}

}  // namespace

OrError<Job> parse_chat(std::string_view body, const ServedModel& model) {
  return or_error([&] { return read_chat(parse_body(body), model); });
}

}  // namespace kt
