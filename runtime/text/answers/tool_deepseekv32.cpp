// DeepSeek V3.2's markup, DSML, as encoding_dsv32.py of its release writes calls:
//   <｜DSML｜function_calls>\n<｜DSML｜invoke name="NAME">\n
//   <｜DSML｜parameter name="KEY"
//   string="true|false">VALUE</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>
// string="true": the value is the text as it stands; "false": it is JSON. The bar is U+FF5C.

#include "runtime/text/answers/tool_tagged.h"

namespace kt {
namespace {

// NAME" with nothing behind it, for <｜DSML｜invoke name="NAME">.
std::optional<std::string> deepseek_call(std::string_view head) {
  const size_t quote = head.find('"');
  if (quote == 0 || quote == head.npos || !trimmed(head.substr(quote + 1)).empty()) return std::nullopt;
  return std::string(head.substr(0, quote));
}

// KEY" string="true, with its closing quote; without the attribute the schema decides.
std::optional<TagDialect::Parameter> deepseek_parameter(std::string_view head) {
  using Is = TagDialect::Parameter::Is;
  const size_t quote = head.find('"');
  if (quote == head.npos) return std::nullopt;
  const std::string name(head.substr(0, quote));
  const std::string_view attribute = trimmed(head.substr(quote + 1));
  if (attribute == "string=\"true\"") return TagDialect::Parameter{name, Is::kString};
  if (attribute == "string=\"false\"") return TagDialect::Parameter{name, Is::kJson};
  return TagDialect::Parameter{name, Is::kTyped};
}

constexpr TagDialect kDeepseek = {
    .block_open = "<｜DSML｜function_calls>",
    .block_close = "</｜DSML｜function_calls>",
    .call_open = "<｜DSML｜invoke name=\"",
    .call_close = "</｜DSML｜invoke>",
    .param_open = "<｜DSML｜parameter name=\"",
    .param_close = "</｜DSML｜parameter>",
    .values_on_own_lines = false,
    .object_in_block = false,
    .never_text = true,
    .read_call = deepseek_call,
    .read_parameter = deepseek_parameter,
};

}  // namespace

std::unique_ptr<ToolParser> make_deepseek_v32_parser(const nlohmann::ordered_json& tools) {
  return make_tagged_parser(kDeepseek, tools);
}

}  // namespace kt
