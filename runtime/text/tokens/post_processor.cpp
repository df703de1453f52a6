#include "runtime/text/tokens/post_processor.h"

#include <simdjson.h>

#include <algorithm>
#include <optional>
#include <string_view>

#include "runtime/base/error.h"

namespace kt {
namespace {

// {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
//  "special_tokens": {"<s>": {"ids": [1]}}}
SpecialTokens read_template(const JsonField& processor) {
  SpecialTokens tokens;
  bool behind = false;
  for (const JsonField& part : processor.at("single").items()) {
    if (part.find("Sequence")) {
      if (behind) part.refuse("the text stands once in a template");
      behind = true;
      continue;
    }
    std::vector<int32_t>& side = behind ? tokens.after : tokens.before;
    const JsonField known = processor.at("special_tokens").at(part.at("SpecialToken").at("id").text());
    for (const JsonField& id : known.at("ids").items()) side.push_back(id.token_id());
  }
  if (!behind) processor.at("single").refuse("the text is missing");
  return tokens;
}

// {"type": "BertProcessing", "cls": ["<s>", 1], "sep": ["</s>", 2]}
int32_t second_of(const JsonField& pair) {
  const std::vector<JsonField> items = pair.items();
  if (items.size() != 2) pair.refuse("a token and its id are expected");
  return items[1].token_id();
}

// A flag of the configuration and the token that it adds.
std::optional<int32_t> configured(const JsonField& config, const Tokenizer& tokenizer, std::string_view flag,
                                  std::string_view name) {
  if (!config.flag(flag, false)) return std::nullopt;
  const JsonField token = config.at(name);
  const auto content = token.value().is_object() ? token.at("content") : token;
  const std::optional<int32_t> id = tokenizer.find(content.text());
  if (!id) content.refuse("the tokenizer has no such token");
  return id;
}

}  // namespace

SpecialTokens read_post_processor(const JsonField& processor) {
  const JsonField type = processor.at("type");
  if (type.text() == "ByteLevel") return {};  // concerns only where tokens stand in the text
  if (type.text() == "TemplateProcessing") return read_template(processor);
  if (type.text() == "BertProcessing" || type.text() == "RobertaProcessing")
    return {{second_of(processor.at("cls"))}, {second_of(processor.at("sep"))}};
  if (type.text() != "Sequence") type.refuse("this kind of post-processor is not known");
  SpecialTokens all;
  for (const JsonField& inner : processor.at("processors").items()) {
    const SpecialTokens tokens = read_post_processor(inner);
    all.before.insert(all.before.begin(), tokens.before.begin(), tokens.before.end());
    all.after.insert(all.after.end(), tokens.after.begin(), tokens.after.end());
  }
  return all;
}

void add_configured_tokens(const std::filesystem::path& folder, const Tokenizer& tokenizer, SpecialTokens& tokens) {
  const std::filesystem::path path = folder / "tokenizer_config.json";
  if (!std::filesystem::exists(path)) return;
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (const auto error = parser.load(path.string()).get(root))
    fail(kExitModel, "{}: {}", path.string(), simdjson::error_message(error));
  const JsonField config(root, path.string() + ": ");
  const auto bos = configured(config, tokenizer, "add_bos_token", "bos_token");
  const auto eos = configured(config, tokenizer, "add_eos_token", "eos_token");
  if (bos && (tokens.before.empty() || tokens.before.front() != *bos))
    tokens.before.insert(tokens.before.begin(), *bos);
  if (eos && (tokens.after.empty() || tokens.after.back() != *eos)) tokens.after.push_back(*eos);
}

}  // namespace kt
