#include "runtime/serve/openai/responses.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/serve/chat/history.h"
#include "runtime/serve/chat/messages.h"
#include "runtime/serve/chat/params.h"
#include "runtime/serve/openai/openai.h"
#include "runtime/serve/openai/responses_answer.h"
#include "runtime/serve/openai/responses_input.h"
#include "runtime/serve/openai/responses_tools.h"
#include "runtime/serve/unsupported.h"

namespace kt {
namespace {

constexpr size_t kMaxMetadata = 16, kMaxMetadataKeyBytes = 64, kMaxMetadataBytes = 512;
constexpr int kShareOfAnswer = 8;  // truncation leaves an eighth of the context to an answer without a limit

// A chat's words, which clients know better, and what they are here.
constexpr std::pair<const char*, const char*> kMoved[] = {{"messages", "input"},
                                                          {"max_tokens", "max_output_tokens"},
                                                          {"max_completion_tokens", "max_output_tokens"},
                                                          {"response_format", "text.format"},
                                                          {"reasoning_effort", "reasoning.effort"}};

void refuse_others(const Fields& fields) {
  refuse_unsupported_in_chat(fields);
  for (const auto& [name, here] : kMoved) {
    if (fields.find(name)) throw BadRequest(name, fmt::format("{}: is {} here", name, here));
  }
  bool background = false;
  fields.read("background", background);
  if (background)
    throw BadRequest("background", "background: this server answers at once or streams; leave it out", "unsupported");
  for (const char* name : {"conversation", "prompt"}) {
    if (fields.find(name))
      throw BadRequest(name, fmt::format("{}: this server keeps none; send the items as input", name), "unsupported");
  }
}

// {"format": ...} as a chat's response_format.
Json response_format(const Fields& request) {
  const Json* text = request.find("text");
  const Json* format = text ? Fields(*text, "text").find("format") : nullptr;
  if (!format) return nullptr;
  const Fields fields(*format, "text.format");
  std::string type;
  if (!fields.read("type", type)) throw BadRequest("text.format.type", "text.format.type: is required");
  if (type != "text" && type != "json_object" && type != "json_schema")
    throw BadRequest("text.format.type",
                     fmt::format("text.format.type: \"{}\" is none of text, json_object, json_schema", type));
  return *format;
}

// A mistake that a chat finds is told in the words of the request.
[[noreturn]] void tell(BadRequest mistake, const ResponseTools& tools) {
  ApiError& error = mistake.error;
  std::vector<std::pair<std::string, std::string>> names = {
      {"response_format", "text.format"}, {"reasoning_effort", "reasoning.effort"}, {"messages", "input"}};
  for (size_t i = tools.paths.size(); i-- > 0;)
    names.emplace_back(fmt::format("tools[{}].function", i), tools.paths[i]);
  for (const auto& [of_chat, ours] : names) {
    if (!error.param.starts_with(of_chat)) continue;
    if (error.message.starts_with(of_chat)) error.message.replace(0, of_chat.size(), ours);
    error.param.replace(0, of_chat.size(), ours);
    break;
  }
  throw mistake;
}

struct ResponsePrompt {
  Json items;            // of this request
  std::string previous;  // response; "": none
  ResponseTools tools;
  Chat chat;
  std::vector<int32_t> ids;
};

void render(const Json& request, const ServedModel& model, ResponsePrompt& prompt) {
  try {
    prompt.chat = render_chat(Fields(request), model);
  } catch (const BadRequest& mistake) {
    tell(mistake, prompt.tools);
  }
  prompt.ids = model.tokenizer->encode(prompt.chat.prompt);
}

// Takes the oldest turns out, behind what the system says, until `most` tokens are left. The last turn stays.
void render_what_fits(Json request, const ServedModel& model, size_t most, ResponsePrompt& prompt) {
  render(request, model, prompt);
  const Json all = request["messages"];
  const auto role = [&](size_t i) { return all[i]["role"].get_ref<const std::string&>(); };
  size_t first = 0;  // message that may go
  while (first < all.size() && (role(first) == "system" || role(first) == "developer")) ++first;
  std::vector<size_t> turns;  // where they begin
  for (size_t i = first + 1; i < all.size(); ++i)
    if (role(i) == "user") turns.push_back(i);
  if (prompt.ids.size() <= most || turns.empty()) return;

  const auto render_from = [&](size_t turn) {
    Json left = all;
    left.erase(left.begin() + static_cast<ptrdiff_t>(first), left.begin() + static_cast<ptrdiff_t>(turns[turn]));
    request["messages"] = std::move(left);
    render(request, model, prompt);
    return prompt.ids.size() <= most;
  };
  size_t low = 0, high = turns.size() - 1;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (render_from(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  render_from(low);
}

bool truncates(const Fields& request) {
  std::string truncation = "disabled";
  request.read("truncation", truncation);
  if (truncation != "disabled" && truncation != "auto")
    throw BadRequest("truncation", fmt::format("truncation: \"{}\" is none of auto, disabled", truncation));
  return truncation == "auto";
}

Json messages_of(const Fields& request, const Json& before, const Json& items) {
  Json messages = Json::array();
  if (const Json* given = request.find("instructions")) {
    if (given->is_string()) {
      messages.push_back({{"role", "system"}, {"content", *given}});
    } else {
      messages = to_messages(*given, "instructions");
    }
  }
  for (const auto& [list, path] : {std::pair(&before, "previous_response_id"), std::pair(&items, "input")})
    for (Json& message : to_messages(*list, path)) messages.push_back(std::move(message));
  if (messages.empty()) throw BadRequest("input", "input: there is nothing to answer");
  return messages;
}

ResponsePrompt read_prompt(const Fields& request, const ServedModel& model, const ResponseContext& context) {
  ResponsePrompt prompt;
  Json before = Json::array();
  if (request.read("previous_response_id", prompt.previous) && !prompt.previous.empty())
    before = context.store.history(prompt.previous, context.owner);
  prompt.items = read_input_items(request, context.store, context.owner);
  if (before.size() + prompt.items.size() > kMaxMessages)
    throw BadRequest(
        "input", fmt::format("input: at most {} items, found {}", kMaxMessages, before.size() + prompt.items.size()));
  Json all = before;
  for (const Json& item : prompt.items) all.push_back(item);
  prompt.tools = read_response_tools(request, all);
  Json chat = {{"tool_choice", read_response_tool_choice(request)}};
  chat["messages"] = messages_of(request, before, prompt.items);
  if (!prompt.tools.chat.empty()) chat["tools"] = prompt.tools.chat;
  if (Json format = response_format(request); !format.is_null()) chat["response_format"] = std::move(format);
  for (const char* name :
       {"parallel_tool_calls", "reasoning", "chat_template_kwargs", "json_schema", "regex", "ebnf", "structural_tag"}) {
    if (const Json* value = request.find(name)) chat[name] = *value;
  }

  if (!truncates(request)) {
    render(chat, model, prompt);
  } else {
    int answer = context.max_context / kShareOfAnswer;
    read_max_tokens(request, "max_output_tokens", 1, answer);
    if (answer < 0) answer = context.max_context / kShareOfAnswer;
    render_what_fits(std::move(chat), model, static_cast<size_t>(std::max(1, context.max_context - answer)), prompt);
  }
  if (prompt.ids.empty()) throw BadRequest("input", "input: the rendered prompt is empty");
  return prompt;
}

SamplingParams read_response_sampling(const Fields& fields, const ServedModel& model, const Chat& chat) {
  SamplingParams sampling = model_sampling(model);
  read_openai_sampling(fields, model.vocab, {"max_output_tokens"}, 1, sampling);
  adapt_sampling(chat, model, sampling);
  return sampling;
}

Json read_metadata(const Fields& fields) {
  const Json* given = fields.find("metadata");
  if (!given) return Json::object();
  const Fields metadata(*given, "metadata");
  if (given->size() > kMaxMetadata)
    throw BadRequest("metadata", fmt::format("metadata: at most {} members, found {}", kMaxMetadata, given->size()));
  for (const auto& [key, value] : given->items()) {
    std::string text;
    if (key.size() > kMaxMetadataKeyBytes)
      throw BadRequest("metadata", fmt::format("metadata: a key may have {} bytes", kMaxMetadataKeyBytes));
    metadata.read(key, text, kMaxMetadataBytes);
  }
  return *given;
}

// A float as its shortest decimal, 0.7 rather than 0.699999988.
Json decimal(float value) { return Json::parse(fmt::format("{}", value)); }

// What a response repeats of its request, with what was taken where it says nothing.
Json echo_of(const Fields& fields, const ResponsePrompt& prompt, const SamplingParams& sampling, bool store) {
  const auto given = [&](const char* name, Json otherwise) {
    const Json* value = fields.find(name);
    return value ? *value : otherwise;
  };
  Json reasoning = {{"effort", nullptr}, {"summary", nullptr}};
  reasoning.update(given("reasoning", Json::object()));
  Json text = {{"format", {{"type", "text"}}}};
  text.update(given("text", Json::object()));
  const bool limited = sampling.max_new_tokens >= 0;
  bool parallel = true;
  fields.read("parallel_tool_calls", parallel);
  return {{"background", false},
          {"instructions", given("instructions", nullptr)},
          {"max_output_tokens", limited ? Json(sampling.max_new_tokens) : Json(nullptr)},
          {"max_tool_calls", given("max_tool_calls", nullptr)},
          {"metadata", read_metadata(fields)},
          {"parallel_tool_calls", parallel},
          {"previous_response_id", prompt.previous.empty() ? Json(nullptr) : Json(prompt.previous)},
          {"prompt_cache_key", given("prompt_cache_key", nullptr)},
          {"reasoning", std::move(reasoning)},
          {"safety_identifier", given("safety_identifier", nullptr)},
          {"service_tier", "default"},
          {"store", store},
          {"temperature", decimal(sampling.temperature)},
          {"text", std::move(text)},
          {"tool_choice", given("tool_choice", "auto")},
          {"tools", prompt.tools.offered},
          {"top_logprobs", given("top_logprobs", 0)},
          {"top_p", decimal(sampling.top_p)},
          {"truncation", given("truncation", "disabled")},
          {"user", given("user", nullptr)}};
}

bool includes(const Fields& fields, std::string_view what) {
  const Json* list = fields.find("include");
  if (!list) return false;
  if (!list->is_array()) throw BadRequest("include", fmt::format("include: expected a list, found {}", kind_of(*list)));
  return std::any_of(list->begin(), list->end(), [&](const Json& item) { return item == what; });
}

// A summary is asked for: this server makes none, so the reasoning stands for it.
bool wants_summary(const Fields& fields) {
  const Json* reasoning = fields.find("reasoning");
  std::string summary;
  return reasoning && Fields(*reasoning, "reasoning").read("summary", summary) && summary != "none";
}

Job read_job(const Json& body, const ServedModel& model, const ResponseContext& context) {
  const Fields fields(body);
  refuse_others(fields);
  ResponseRequest request;
  request.summary = wants_summary(fields);
  request.sealed = includes(fields, "reasoning.encrypted_content");
  request.logprobs = includes(fields, "message.output_text.logprobs");
  const OpenAiRequest common = read_openai_request(fields);
  if (common.n > 1) throw BadRequest("n", "n: a response is one answer; ask for several", "unsupported");
  request.model = common.model;
  request.created = common.created;
  request.stream = common.stream;
  fields.read("store", request.store);

  GenerateRequest generate;
  generate.rid = common.id;
  generate.return_logprob = request.logprobs;
  fields.read("top_logprobs", generate.top_logprobs, 0, kMaxTopLogprobs);
  if (!request.logprobs) generate.top_logprobs = 0;
  read_scheduling(fields, generate);
  ResponsePrompt prompt = read_prompt(fields, model, context);
  generate.sampling = read_response_sampling(fields, model, prompt.chat);
  generate.input_ids = std::move(prompt.ids);

  request.stored = {
      .id = "resp_" + random_id(), .previous = prompt.previous, .owner = context.owner, .input = dump(prompt.items)};
  request.echo = echo_of(fields, prompt, generate.sampling, request.store);
  request.tools = std::move(prompt.tools);
  request.prompt_tokens = static_cast<int>(generate.input_ids.size());
  Job job{.id = request.stored.id,
          .prompt_param = "input",
          .stream = request.stream,
          .stream_interval = common.stream_interval};
  job.requests.push_back(std::move(generate));
  order_grammar(prompt.chat.format, model, 0, job);
  job.answer = make_response_answer(std::move(request), prompt.chat, *model.tokenizer, context.store);
  return job;
}

}  // namespace

OrError<Job> parse_response_request(std::string_view body, const ServedModel& model, const ResponseContext& context) {
  return or_error([&] { return read_job(parse_body(body), model, context); });
}

OrError<std::string> count_response_tokens(std::string_view body, const ServedModel& model,
                                           const ResponseContext& context) {
  return or_error([&] {
    const Json request = parse_body(body);
    const ResponsePrompt prompt = read_prompt(Fields(request), model, context);
    return dump({{"object", "response.input_tokens"}, {"input_tokens", prompt.ids.size()}});
  });
}

}  // namespace kt
