#include "runtime/serve/sglang/text_endpoints.h"

#include <fmt/format.h>

#include "runtime/serve/chat/messages.h"
#include "runtime/serve/chat/params.h"
#include "runtime/serve/fields.h"
#include "runtime/serve/openai/openai.h"
#include "runtime/serve/openai/openai_completions.h"
#include "runtime/serve/unsupported.h"

namespace kt {
namespace {

Json token_strings(const std::vector<int32_t>& ids, const Tokenizer& tokenizer) {
  Json strings = Json::array();
  for (const int32_t id : ids) strings.push_back(token_text(tokenizer, id));
  return strings;
}

std::string tokenize_one(const std::vector<int32_t>& ids, bool with_strings, const ServedModel& model) {
  Json answer = {{"tokens", ids}, {"count", ids.size()}, {"max_model_len", model.max_context}};
  if (with_strings) answer["token_strs"] = token_strings(ids, *model.tokenizer);
  return dump(answer);
}

std::string tokenize_list(const Json& prompts, const std::string& name, EncodeOptions options, bool with_strings,
                          const ServedModel& model) {
  if (prompts.size() > kMaxPrompts)
    throw BadRequest(name, fmt::format("{}: at most {} prompts, found {}", name, kMaxPrompts, prompts.size()));
  Json tokens = Json::array(), counts = Json::array(), strings = Json::array();
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<int32_t> ids = model.tokenizer->encode(to_string(prompts[i], element_of(name, i)), options);
    counts.push_back(ids.size());
    if (with_strings) strings.push_back(token_strings(ids, *model.tokenizer));
    tokens.push_back(ids);
  }
  Json answer = {{"tokens", std::move(tokens)}, {"count", std::move(counts)}, {"max_model_len", model.max_context}};
  if (with_strings) answer["token_strs"] = std::move(strings);
  return dump(answer);
}

std::string read_tokenize(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  bool with_strings = false;
  fields.read("return_token_strs", with_strings);
  const bool is_chat = fields.find("messages") != nullptr;
  EncodeOptions options{.add_special_tokens = !is_chat};  // a template prints its own
  fields.read("add_special_tokens", options.add_special_tokens);
  if (is_chat)
    return tokenize_one(model.tokenizer->encode(render_chat(fields, model).prompt, options), with_strings, model);

  const std::string name = fields.find("content") ? "content" : "prompt";
  const Json* prompt = fields.find(name);
  if (!prompt) throw BadRequest("prompt", "give one of prompt, content or messages");
  if (prompt->is_array()) return tokenize_list(*prompt, name, options, with_strings, model);
  return tokenize_one(model.tokenizer->encode(to_string(*prompt, name), options), with_strings, model);
}

std::string read_detokenize(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  bool skip_special = true;
  fields.read("skip_special_tokens", skip_special);
  const Json* tokens = fields.find("tokens");
  if (!tokens) throw BadRequest("tokens", "tokens: is required");
  const auto text_of = [&](const Json& ids, const std::string& path) {
    if (ids.is_array() && ids.empty()) return std::string();
    return decode(*model.tokenizer, read_token_ids(ids, path, model.vocab), skip_special);
  };
  Json text;
  if (tokens->is_array() && !tokens->empty() && tokens->front().is_array()) {
    text = Json::array();
    for (size_t i = 0; i < tokens->size(); ++i) text.push_back(text_of((*tokens)[i], fmt::format("tokens[{}]", i)));
  } else {
    text = text_of(*tokens, "tokens");
  }
  return dump({{"text", text}, {"prompt", text}, {"content", text}});
}

}  // namespace

OrError<std::string> tokenize(std::string_view body, const ServedModel& model) {
  return or_error([&] { return read_tokenize(parse_body(body), model); });
}

OrError<std::string> detokenize(std::string_view body, const ServedModel& model) {
  return or_error([&] { return read_detokenize(parse_body(body), model); });
}

OrError<std::string> apply_template(std::string_view body, const ServedModel& model) {
  return or_error([&] {
    const Json request = parse_body(body);
    const Fields fields(request);
    refuse_unsupported_in_chat(fields);
    return dump({{"prompt", render_chat(fields, model).prompt}});
  });
}

}  // namespace kt
