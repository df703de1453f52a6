#include "runtime/serve/openai/openai_completions.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/serve/chat/params.h"
#include "runtime/serve/openai/openai.h"
#include "runtime/serve/openai/prompt_logprobs.h"

namespace kt {
namespace {

struct Prompt {
  std::vector<int32_t> ids;
  std::string text;  // for echo
};

struct CompletionRequest : OpenAiRequest {
  bool echo = false;
  bool add_special_tokens = true;  // around prompts that are texts
  std::vector<Prompt> prompts;
};

// A token as a key of top_logprobs: parts of characters are written "bytes:\xe2\x80", so that no two are the same.
std::string token_key(const Tokenizer& tokenizer, int32_t id) {
  const std::string text = token_text(tokenizer, id);
  const std::string_view bytes = tokenizer.bytes(id);
  if (text == bytes) return text;
  std::string key = "bytes:";
  for (const char c : bytes) key += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return key;
}

// Code points that begin in these bytes.
int code_points(std::string_view bytes) {
  return static_cast<int>(std::count_if(bytes.begin(), bytes.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

class CompletionsAnswer : public Answer {
 public:
  CompletionsAnswer(CompletionRequest request, const Tokenizer& tokenizer)
      : request_(std::move(request)),
        tokenizer_(tokenizer),
        choices_(request_.prompts.size() * static_cast<size_t>(request_.n)),
        offsets_(choices_.size()),
        begun_(choices_.size()),
        prompt_shown_(choices_.size()) {
    for (const Prompt& prompt : request_.prompts) usage_.prompt_tokens += static_cast<int>(prompt.ids.size());
  }

  std::string start() override { return ""; }

  std::string take(size_t index, Emission emission) override {
    if (emission.progress) return progress_event(index, emission);
    ChoiceState& choice = choices_[index];
    const bool first_sample = index % static_cast<size_t>(request_.n) == 0;  // a prompt counts once
    if (first_sample && !begun_[index]) usage_.cached_tokens += emission.cached_tokens;
    usage_.completion_tokens += emission.completion_tokens - choice.completion_tokens;
    choice.completion_tokens = emission.completion_tokens;
    choice.finish = std::move(emission.finish);
    if (!begun_[index] && request_.echo) choice.text = prompt_of(index).text;
    begun_[index] = true;
    choice.text += emission.text;
    if (request_.logprobs) {
      std::move(emission.prompt.begin(), emission.prompt.end(), std::back_inserter(choice.prompt));
      std::move(emission.tokens.begin(), emission.tokens.end(), std::back_inserter(choice.tokens));
    }
    if (!request_.stream) return "";
    if (choice.text.empty() && choice.tokens.empty() && !choice.finish) return "";
    std::string event = sse(chunk(index));
    choice.text.clear();
    choice.tokens.clear();
    choice.prompt.clear();
    return event;
  }

  std::string finish() override {
    if (request_.stream) {
      std::string events;
      if (request_.include_usage) {
        Json json = envelope(Json::array());
        json["usage"] = to_json(usage_);
        events = sse(json);
      }
      return events.append(kSseDone);
    }
    Json choices = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) choices.push_back(choice_json(i));
    Json body = envelope(std::move(choices));
    body["usage"] = to_json(usage_);
    body["metadata"] = {{"weight_version", "default"}};
    return dump(body);
  }

 private:
  const Prompt& prompt_of(size_t index) const { return request_.prompts[index / static_cast<size_t>(request_.n)]; }

  Json envelope(Json choices) const {
    return {{"id", request_.id},
            {"object", "text_completion"},
            {"created", request_.created},
            {"model", request_.model},
            {"choices", std::move(choices)}};
  }

  Json chunk(size_t index) {
    Json json = envelope(Json::array({choice_json(index)}));
    if (request_.continuous_usage_stats && !choices_[index].finish) {
      json["usage"] = to_json(usage_);
    } else if (request_.include_usage) {
      json["usage"] = nullptr;
    }
    return json;
  }

  std::string progress_event(size_t index, const Emission& emission) const {
    Json json = envelope(Json::array({{{"index", index},
                                       {"text", ""},
                                       {"logprobs", nullptr},
                                       {"finish_reason", nullptr},
                                       {"matched_stop", nullptr}}}));
    json["prompt_progress"] = prompt_progress(emission);
    if (request_.include_usage) json["usage"] = nullptr;
    return sse(json);
  }

  Json choice_json(size_t index) {
    const ChoiceState& choice = choices_[index];
    return {{"index", index},
            {"text", choice.text},
            {"logprobs", logprobs(index)},
            {"finish_reason", finish_reason(choice.finish)},
            {"matched_stop", matched_stop(choice.finish)}};
  }

  // Four lists in step. text_offset: where a token begins in the choice's text, in code points.
  Json logprobs(size_t index) {
    if (!request_.logprobs) return nullptr;
    Json lists = {{"tokens", Json::array()},
                  {"token_logprobs", Json::array()},
                  {"top_logprobs", Json::array()},
                  {"text_offset", Json::array()}};
    const auto add = [&](int32_t id, const TokenLogprob* known) {
      lists["tokens"].push_back(token_key(tokenizer_, id));
      lists["token_logprobs"].push_back(known ? Json(json_logprob(known->logprob)) : Json(nullptr));
      Json top = nullptr;
      if (known && request_.top_logprobs > 0) {
        top = Json::object();
        for (const auto& [top_id, logprob] : known->top)
          top.emplace(token_key(tokenizer_, top_id), json_logprob(logprob));
      }
      lists["top_logprobs"].push_back(std::move(top));
      lists["text_offset"].push_back(offsets_[index]);
      offsets_[index] += code_points(tokenizer_.bytes(id));
    };
    if (request_.echo && !prompt_shown_[index]) {
      prompt_shown_[index] = true;
      for (const PromptLogprob& token : align_prompt(prompt_of(index).ids, choices_[index].prompt, 0))
        add(token.id, token.known);
    }
    for (const TokenLogprob& token : choices_[index].tokens) add(token.id, &token);
    return lists;
  }

  CompletionRequest request_;
  const Tokenizer& tokenizer_;
  std::vector<ChoiceState> choices_;  // streams keep only what is not sent yet
  std::vector<int> offsets_;
  std::vector<bool> begun_, prompt_shown_;
  Usage usage_;
};

bool is_id_list(const Json& value) { return value.is_array() && !value.empty() && value.front().is_number(); }

Prompt read_prompt(const Fields& fields, const Json& value, const std::string& path, const SamplingParams& sampling,
                   const CompletionRequest& request, const ServedModel& model) {
  Prompt prompt;
  if (value.is_array()) {
    prompt.ids = read_token_ids(value, path, model.vocab);
  } else {
    prompt.text = to_string(value, path);
    prompt.ids = model.tokenizer->encode(prompt.text, {.add_special_tokens = request.add_special_tokens});
  }
  if (prompt.ids.empty()) throw BadRequest(path, "prompt cannot be empty");
  const bool cut = truncate_prompt(fields, model.max_context, sampling, prompt.ids);
  if (request.echo && (cut || value.is_array())) prompt.text = decode(*model.tokenizer, prompt.ids, false);
  return prompt;
}

void read_prompts(const Fields& fields, const SamplingParams& sampling, const ServedModel& model,
                  CompletionRequest& request) {
  const Json* value = fields.find("prompt");
  if (!value) throw BadRequest("prompt", "prompt: is required");
  if (!value->is_array() || is_id_list(*value)) {
    request.prompts.push_back(read_prompt(fields, *value, "prompt", sampling, request, model));
    return;
  }
  if (value->empty()) throw BadRequest("prompt", "prompt cannot be empty");
  if (value->size() > kMaxPrompts)
    throw BadRequest("prompt", fmt::format("prompt: at most {} prompts, found {}", kMaxPrompts, value->size()));
  for (size_t i = 0; i < value->size(); ++i)
    request.prompts.push_back(read_prompt(fields, (*value)[i], fmt::format("prompt[{}]", i), sampling, request, model));
}

// No new token is of use where `echo` shows the prompt.
SamplingParams read_completion_sampling(const Fields& fields, const ServedModel& model, bool echo) {
  SamplingParams sampling;
  sampling.max_new_tokens = 16;
  read_openai_sampling(fields, model.vocab, {"max_tokens"}, echo ? 0 : 1, sampling);
  return sampling;
}

Job read_completions(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  CompletionRequest request;
  static_cast<OpenAiRequest&>(request) = read_openai_request(fields);
  fields.read("echo", request.echo);
  fields.read("add_special_tokens", request.add_special_tokens);
  request.logprobs = fields.read("logprobs", request.top_logprobs, 0, kMaxTopLogprobs);
  std::string suffix;
  if (fields.read("suffix", suffix) && !suffix.empty())
    throw BadRequest("suffix", "suffix: this server only continues text; leave it out", "unsupported");

  GenerateRequest generate;
  generate.sampling = read_completion_sampling(fields, model, request.echo);
  generate.return_logprob = request.logprobs;
  generate.top_logprobs = request.top_logprobs;
  generate.report_progress = request.stream && request.return_progress;
  generate.logprob_start = request.logprobs && request.echo ? 0 : -1;
  read_scheduling(fields, generate);
  read_prompts(fields, generate.sampling, model, request);

  Job job{
      .id = request.id, .prompt_param = "prompt", .stream = request.stream, .stream_interval = request.stream_interval};
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    generate.rid = i == 0 ? request.id : fmt::format("{}-p{}", request.id, i);
    generate.input_ids = request.prompts[i].ids;
    append_choices(generate, request.n, job.requests);
  }
  order_grammar(read_answer_format(fields), model, 0, job);
  job.answer = std::make_unique<CompletionsAnswer>(std::move(request), *model.tokenizer);
  return job;
}

}  // namespace

OrError<Job> parse_completions(std::string_view body, const ServedModel& model) {
  return or_error([&] { return read_completions(parse_body(body), model); });
}

}  // namespace kt
