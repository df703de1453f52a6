// Qwen3-Coder, Qwen3-Coder-Next, Qwen3.5, as their chat templates write calls:
//   <tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>
// or, as the models before them did and as some prompts ask for, <tool_call>{"name": NAME, "arguments":
// {...}}</tool_call>. The values carry no type; the tools' schemas give it.

#include "runtime/text/answers/tool_tagged.h"

namespace kt {
namespace {

std::optional<std::string> qwen3_coder_call(std::string_view head) {
  const std::string_view name = trimmed(head);
  if (name.empty()) return std::nullopt;
  return std::string(name);
}

std::optional<TagDialect::Parameter> qwen3_coder_parameter(std::string_view head) {
  return TagDialect::Parameter{std::string(trimmed(head)), TagDialect::Parameter::Is::kTyped};
}

constexpr TagDialect kQwen3Coder = {
    .block_open = "<tool_call>",
    .block_close = "</tool_call>",
    .call_open = "<function=",
    .call_close = "</function>",
    .param_open = "<parameter=",
    .param_close = "</parameter>",
    .values_on_own_lines = true,
    .object_in_block = true,
    .never_text = false,
    .read_call = qwen3_coder_call,
    .read_parameter = qwen3_coder_parameter,
};

}  // namespace

std::unique_ptr<ToolParser> make_qwen3_coder_parser(const nlohmann::ordered_json& tools) {
  return make_tagged_parser(kQwen3Coder, tools);
}

}  // namespace kt
