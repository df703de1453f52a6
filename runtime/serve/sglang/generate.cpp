#include "runtime/serve/sglang/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <span>

#include "runtime/serve/chat/params.h"
#include "runtime/serve/fields.h"
#include "runtime/serve/openai/openai.h"
#include "runtime/serve/openai/openai_completions.h"
#include "runtime/serve/openai/prompt_logprobs.h"
#include "runtime/serve/unsupported.h"

namespace kt {
namespace {

using Clock = std::chrono::steady_clock;

struct NativeOptions {
  bool stream = false;
  bool incremental = false;  // events bring what is new, not all so far
  bool list = false;         // answer with a list, name the index in events
  bool return_logprob = false;
  bool text_in_logprobs = false;
  int top_logprobs = 0;
  int logprob_start = -1;
  Clock::time_point arrival = Clock::now();
};

Json finish_json(const std::optional<Finish>& finish, int completion_tokens) {
  if (!finish) return nullptr;
  switch (finish->kind) {
    case Finish::Kind::length: return {{"type", "length"}, {"length", completion_tokens}};
    case Finish::Kind::abort: return {{"type", "abort"}, {"message", finish->message}};
    default: return {{"type", "stop"}, {"matched", matched_stop(finish)}};
  }
}

// One choice as JSON text that only grows. A stream's event has all of the answer so far: to write it anew for each
// token would be quadratic work.
struct Written {
  std::string text;                // a string without its quotes
  std::string ids, logprobs, top;  // lists without their brackets
  std::string prompt, prompt_top;  // likewise, of input tokens
  std::optional<Finish> finish;
  int completion_tokens = 0, cached_tokens = 0;
  bool prompt_written = false;
};

void append_item(std::string& list, std::string_view item) {
  if (!list.empty()) list += ',';
  list += item;
}

class NativeAnswer : public Answer {
 public:
  NativeAnswer(NativeOptions options, const std::vector<GenerateRequest>& requests, const Tokenizer& tokenizer)
      : options_(options), tokenizer_(tokenizer), choices_(requests.size()) {
    for (const GenerateRequest& request : requests) {
      rids_.push_back(request.rid);
      prompts_.push_back(request.input_ids);
    }
  }

  std::string start() override { return ""; }

  std::string take(size_t index, Emission emission) override {
    const bool news = !emission.tokens.empty() || emission.finish;
    write(index, std::move(emission));
    if (!options_.stream || !news) return "";
    std::string json = choice_json(index);
    if (options_.list) json.insert(json.size() - 1, fmt::format(",\"index\":{}", index));
    if (options_.incremental) forget_sent(choices_[index]);
    return sse_text(json);
  }

  std::string finish() override {
    if (options_.stream) return std::string(kSseDone);
    if (!options_.list) return choice_json(0);
    std::string list;
    for (size_t i = 0; i < choices_.size(); ++i) append_item(list, choice_json(i));
    return "[" + list + "]";
  }

  bool is_cumulative() const override { return !options_.incremental; }

 private:
  void write(size_t index, Emission emission) {
    Written& choice = choices_[index];
    const std::string text = dump(emission.text);
    choice.text.append(text, 1, text.size() - 2);
    choice.completion_tokens = emission.completion_tokens;
    choice.cached_tokens = std::max(choice.cached_tokens, emission.cached_tokens);
    choice.finish = std::move(emission.finish);
    if (options_.return_logprob && options_.logprob_start >= 0 && !choice.prompt_written &&
        (!emission.tokens.empty() || choice.finish))
      write_prompt(index, emission.prompt);
    for (const TokenLogprob& token : emission.tokens) {
      append_item(choice.ids, std::to_string(token.id));
      if (!options_.return_logprob) continue;
      append_item(choice.logprobs, dump(triple(token.id, json_logprob(token.logprob))));
      if (options_.top_logprobs > 0) append_item(choice.top, dump(triples(token.top)));
    }
  }

  // With the first token all of them are known.
  void write_prompt(size_t index, std::span<const TokenLogprob> known) {
    Written& choice = choices_[index];
    choice.prompt_written = true;
    for (const PromptLogprob& token :
         align_prompt(prompts_[index], known, static_cast<size_t>(options_.logprob_start))) {
      append_item(choice.prompt,
                  dump(triple(token.id, token.known ? Json(json_logprob(token.known->logprob)) : Json(nullptr))));
      if (options_.top_logprobs > 0)
        append_item(choice.prompt_top, token.known ? dump(triples(token.known->top)) : "null");
    }
  }

  static void forget_sent(Written& choice) {
    for (std::string* sent :
         {&choice.text, &choice.ids, &choice.logprobs, &choice.top, &choice.prompt, &choice.prompt_top})
      sent->clear();
  }

  std::string choice_json(size_t index) const {
    const Written& choice = choices_[index];
    std::string json;
    json.reserve(choice.text.size() + choice.ids.size() + choice.logprobs.size() + choice.top.size() + 512);
    for (const std::string_view part :
         {std::string_view("{\"text\":\""), std::string_view(choice.text), std::string_view("\",\"output_ids\":["),
          std::string_view(choice.ids), std::string_view("],\"meta_info\":")})
      json += part;
    json += dump(meta_info(index));
    if (options_.return_logprob) {
      json.pop_back();
      append_list(json, "input_token_logprobs", choice.prompt);
      append_list(json, "output_token_logprobs", choice.logprobs);
      if (options_.top_logprobs > 0) {
        append_list(json, "input_top_logprobs", choice.prompt_top);
        append_list(json, "output_top_logprobs", choice.top);
      }
      json += '}';
    }
    return json += '}';
  }

  static void append_list(std::string& json, std::string_view name, std::string_view items) {
    for (const std::string_view part :
         {std::string_view(",\""), name, std::string_view("\":["), items, std::string_view("]")})
      json += part;
  }

  Json meta_info(size_t index) const {
    const Written& choice = choices_[index];
    return {{"id", rids_[index]},
            {"finish_reason", finish_json(choice.finish, choice.completion_tokens)},
            {"prompt_tokens", prompts_[index].size()},
            {"weight_version", "default"},
            {"completion_tokens", choice.completion_tokens},
            {"cached_tokens", choice.cached_tokens},
            {"e2e_latency", std::chrono::duration<double>(Clock::now() - options_.arrival).count()}};
  }

  Json triple(int32_t id, Json logprob) const {
    return Json::array(
        {std::move(logprob), id, options_.text_in_logprobs ? Json(token_text(tokenizer_, id)) : Json(nullptr)});
  }

  Json triples(const std::vector<std::pair<int32_t, float>>& top) const {
    Json list = Json::array();
    for (const auto& [id, logprob] : top) list.push_back(triple(id, json_logprob(logprob)));
    return list;
  }

  NativeOptions options_;
  const Tokenizer& tokenizer_;
  std::vector<Written> choices_;
  std::vector<std::string> rids_;
  std::vector<std::vector<int32_t>> prompts_;
};

struct NativeSampling {
  SamplingParams params;
  int n = 1, stream_interval = 1;
  std::optional<AnswerFormat> format;
};

// No new token is of use where the prompt's logprobs are asked for.
NativeSampling read_native_sampling(const Json* value, const std::string& path, int vocab, bool prompt_logprobs) {
  NativeSampling sampling;
  sampling.params.max_new_tokens = 128;
  if (!value || value->is_null()) return sampling;
  const Fields fields(*value, path);
  refuse_unsupported(fields);
  read_sampling(fields, vocab, sampling.params);
  read_seed(fields, "seed", sampling.params.seed);
  read_seed(fields, "sampling_seed", sampling.params.seed);
  if (value->contains("max_new_tokens") && (*value)["max_new_tokens"].is_null()) sampling.params.max_new_tokens = -1;
  fields.read("max_new_tokens", sampling.params.max_new_tokens, prompt_logprobs ? 0 : 1);
  fields.read("min_new_tokens", sampling.params.min_new_tokens, 0);
  fields.read("n", sampling.n, 1, kMaxChoices);
  sampling.stream_interval = read_stream_interval(fields);
  check_token_limits(fields, "min_new_tokens", sampling.params);
  sampling.format = read_answer_format(fields);
  return sampling;
}

// Prompts as token ids; `list` says whether the client sent a list of them.
std::vector<std::vector<int32_t>> read_inputs(const Fields& fields, const ServedModel& model, bool& list) {
  const Json* text = fields.find("text");
  const Json* ids = fields.find("input_ids");
  if (!text == !ids) throw BadRequest(text ? "input_ids" : "text", "give either text or input_ids");

  const std::string name = text ? "text" : "input_ids";
  const Json& value = text ? *text : *ids;
  list = text ? value.is_array() : value.is_array() && !value.empty() && value.front().is_array();
  const auto read_one = [&](const Json& item, const std::string& path) {
    std::vector<int32_t> prompt = text ? model.tokenizer->encode(to_string(item, path), {.add_special_tokens = true})
                                       : read_token_ids(item, path, model.vocab);
    if (prompt.empty()) throw BadRequest(path, path + ": the prompt is empty");
    return prompt;
  };
  if (!list) return {read_one(value, name)};
  if (value.empty()) throw BadRequest(name, name + ": the list is empty");
  if (value.size() > kMaxPrompts)
    throw BadRequest(name, fmt::format("{}: at most {} prompts, found {}", name, kMaxPrompts, value.size()));
  std::vector<std::vector<int32_t>> prompts;
  for (size_t i = 0; i < value.size(); ++i) prompts.push_back(read_one(value[i], element_of(name, i)));
  return prompts;
}

// One for all prompts, or a list with one for each.
const Json* member_for(const Fields& fields, const std::string& name, size_t index, size_t count) {
  const Json* value = fields.find(name);
  if (!value || !value->is_array()) return value;
  if (value->size() != count)
    throw BadRequest(name, fmt::format("{}: the list has {} elements for {} prompts", name, value->size(), count));
  return &(*value)[index];
}

std::string read_rid(const Fields& fields, size_t index, size_t count, const std::string& id) {
  const Json* value = member_for(fields, "rid", index, count);
  if (!value) return index == 0 ? id : fmt::format("{}-p{}", id, index);
  std::string rid = to_string(*value, "rid");
  if (rid.empty() || rid.size() > kMaxIdBytes)
    throw BadRequest("rid", fmt::format("rid: must have 1 to {} bytes", kMaxIdBytes));
  const bool shared = index > 0 && !fields.find("rid")->is_array();
  return shared ? fmt::format("{}-p{}", rid, index) : rid;
}

Job read_generate(const Json& body, const ServedModel& model, bool incremental) {
  const Fields fields(body);
  NativeOptions options{.incremental = incremental};
  fields.read("stream", options.stream);
  fields.read("return_logprob", options.return_logprob);
  fields.read("return_text_in_logprobs", options.text_in_logprobs);
  fields.read("top_logprobs_num", options.top_logprobs, 0, kMaxTopLogprobs);
  fields.read("logprob_start_len", options.logprob_start, -1);
  refuse_unsupported(fields);
  GenerateRequest generate;
  read_scheduling(fields, generate);
  const auto prompts = read_inputs(fields, model, options.list);

  Job job{.id = random_id(), .prompt_param = fields.find("text") ? "text" : "input_ids", .stream = options.stream};
  for (size_t i = 0; i < prompts.size(); ++i) {
    const NativeSampling sampling =
        read_native_sampling(member_for(fields, "sampling_params", i, prompts.size()), "sampling_params", model.vocab,
                             options.return_logprob && options.logprob_start >= 0);
    generate.rid = read_rid(fields, i, prompts.size(), job.id);
    generate.input_ids = prompts[i];
    generate.sampling = sampling.params;
    if (options.return_logprob) {
      generate.return_logprob = true;
      generate.top_logprobs = options.top_logprobs;
      generate.logprob_start = options.logprob_start;
      if (options.logprob_start >= static_cast<int>(prompts[i].size()))
        throw BadRequest("logprob_start_len", fmt::format("logprob_start_len: {} is beyond the prompt's {} tokens",
                                                          options.logprob_start, prompts[i].size()));
    }
    const size_t first = job.requests.size();
    append_choices(generate, sampling.n, job.requests);
    order_grammar(sampling.format, model, first, job);
    job.stream_interval = std::max(job.stream_interval, sampling.stream_interval);
  }
  if (job.requests.size() > 1) options.list = true;
  job.id = job.requests.front().rid;
  job.answer = std::make_unique<NativeAnswer>(options, job.requests, *model.tokenizer);
  return job;
}

class HealthAnswer : public Answer {
 public:
  std::string start() override { return ""; }
  std::string take(size_t, Emission) override { return ""; }
  std::string finish() override { return dump({{"status", "ok"}}); }
};

}  // namespace

OrError<Job> parse_generate(std::string_view body, const ServedModel& model, bool incremental) {
  return or_error([&] { return read_generate(parse_body(body), model, incremental); });
}

Job make_health_probe(double deadline_s) {
  Job job{.id = random_id(), .prompt_param = "", .deadline_s = deadline_s};
  GenerateRequest probe;
  probe.rid = "health-" + job.id;
  probe.input_ids = {0};
  probe.sampling.max_new_tokens = 1;
  probe.sampling.temperature = 0;
  probe.sampling.ignore_eos = true;
  job.requests.push_back(std::move(probe));
  job.answer = std::make_unique<HealthAnswer>();
  return job;
}

}  // namespace kt
