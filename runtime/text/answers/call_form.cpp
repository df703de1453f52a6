#include "runtime/text/answers/call_form.h"

#include <algorithm>
#include <iterator>

namespace kt {
namespace {

constexpr CallForm hermes(std::string_view name) {
  return {.format = name,
          .opener = "<tool_call>",
          .before_name = "<tool_call>\n{\"name\": \"",
          .after_name = "\", \"arguments\": ",
          .after_arguments = "}\n",
          .call_end = "</tool_call>",
          .between = "\n"};
}

constexpr ParameterTags kQwenTags = {.before_name = "<parameter=",
                                     .before_text = ">\n",
                                     .before_json = ">\n",
                                     .after_value = "\n",
                                     .close = "</parameter>\n"};
constexpr ParameterTags kDeepSeekTags = {.before_name = "<｜DSML｜parameter name=\"",
                                         .before_text = "\" string=\"true\">",
                                         .before_json = "\" string=\"false\">",
                                         .after_value = "",
                                         .close = "</｜DSML｜parameter>\n"};

constexpr CallForm kForms[] = {
    {.format = "qwen3_coder",
     .opener = "<tool_call>",
     .without_opener = "<function=",
     .before_name = "<tool_call>\n<function=",
     .after_name = ">\n",
     .tags = &kQwenTags,
     .after_arguments = "</function>\n",
     .call_end = "</tool_call>",
     .between = "\n"},
    {.format = "kimi_k2",
     .opener = "<|tool_calls_section_begin|>",
     .without_opener = "<|tool_call_begin|>",
     .section_begin = "<|tool_calls_section_begin|>",
     .section_end = "<|tool_calls_section_end|>",
     .before_name = "<|tool_call_begin|>functions.",
     .after_name = ":",
     .numbered = true,
     .before_arguments = "<|tool_call_argument_begin|>",
     .call_end = "<|tool_call_end|>"},
    {.format = "deepseekv32",
     .opener = "<｜DSML｜function_calls>",
     .without_opener = "<｜DSML｜invoke",
     .section_begin = "<｜DSML｜function_calls>\n",
     .section_end = "\n</｜DSML｜function_calls>",
     .before_name = "<｜DSML｜invoke name=\"",
     .after_name = "\">\n",
     .tags = &kDeepSeekTags,
     .call_end = "</｜DSML｜invoke>",
     .between = "\n"},
    {.format = "deepseekv31",
     .opener = "<｜tool▁calls▁begin｜>",
     .without_opener = "<｜tool▁call▁begin｜>",
     .section_begin = "<｜tool▁calls▁begin｜>",
     .section_end = "<｜tool▁calls▁end｜>",
     .before_name = "<｜tool▁call▁begin｜>",
     .after_name = "<｜tool▁sep｜>",
     .call_end = "<｜tool▁call▁end｜>"},
    {.format = "deepseekv3",
     .opener = "<｜tool▁calls▁begin｜>",
     .without_opener = "<｜tool▁call▁begin｜>",
     .section_begin = "<｜tool▁calls▁begin｜>",
     .section_end = "<｜tool▁calls▁end｜>",
     .before_name = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
     .after_name = "\n```json\n",
     .after_arguments = "\n```",
     .call_end = "<｜tool▁call▁end｜>",
     .between = "\n"},
    hermes("hermes"),
    hermes("qwen25"),
    hermes("qwen"),
};

}  // namespace

const CallForm* find_call_form(const ToolFormat& format) {
  const auto form =
      std::find_if(std::begin(kForms), std::end(kForms), [&](const CallForm& f) { return f.format == format.name; });
  return form == std::end(kForms) ? nullptr : &*form;
}

std::vector<std::string_view> special_tokens_of(const CallForm& form, const Tokenizer& tokenizer) {
  std::vector<std::string_view> tokens;
  for (int32_t id = 0; id < tokenizer.size(); ++id) {
    if (!tokenizer.is_special(id)) continue;
    const std::string_view token = tokenizer.bytes(id);
    const auto parts = {form.section_begin,    form.section_end,     form.before_name, form.after_name,
                        form.before_arguments, form.after_arguments, form.call_end};
    const bool used =
        std::any_of(parts.begin(), parts.end(), [&](std::string_view p) { return p.find(token) != p.npos; });
    if (used && !token.empty()) tokens.push_back(token);
  }
  return tokens;
}

}  // namespace kt
