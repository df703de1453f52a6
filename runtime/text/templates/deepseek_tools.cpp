#include "runtime/text/templates/deepseek_tools.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fstream>
#include <iterator>
#include <stdexcept>

#include "runtime/base/error.h"
#include "runtime/text/json/python_literal.h"

namespace kt {
namespace {

constexpr std::string_view kParagraphs[] = {
    "## Tools",
    R"(You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<{dsml_token}function_calls>" block like the following as part of your reply to the user:
<{dsml_token}function_calls>
<{dsml_token}invoke name="$FUNCTION_NAME">
<{dsml_token}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{dsml_token}parameter>
...
</{dsml_token}invoke>
<{dsml_token}invoke name="$FUNCTION_NAME2">
...
</{dsml_token}invoke>
</{dsml_token}function_calls>)",
    R"(String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects )"
    R"(should use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" )"
    R"(for other types (numbers, booleans, arrays, objects).)",
    R"(If the thinking_mode is enabled, then after function results you should strongly consider outputting a )"
    R"(thinking block. Here is an example:)",
    "<{dsml_token}function_calls>\n...\n</{dsml_token}function_calls>",
    "<function_results>\n...\n</function_results>",
    "{thinking_start_token}...thinking about results{thinking_end_token}",
    "Here are the functions available in JSONSchema format:\n<functions>\n{tool_schemas}\n</functions>\n",
};

}  // namespace

ToolsText::ToolsText(std::string_view format) : parts_(1) {
  while (!format.empty()) {
    const char c = format[0];
    if (c != '{' && c != '}') {
      const size_t length = std::min(format.find_first_of("{}"), format.size());
      parts_.back() += format.substr(0, length);
      format.remove_prefix(length);
    } else if (format.substr(1).starts_with(c)) {
      parts_.back() += c;
      format.remove_prefix(2);
    } else {
      const size_t end = c == '{' ? format.find('}') : format.npos;
      if (end == format.npos) throw std::runtime_error(fmt::format("a single {} in a format", c));
      const std::string_view field = format.substr(1, end - 1);
      if (field == "tool_schemas")
        parts_.emplace_back();
      else if (field == "dsml_token")
        parts_.back() += kDsml;
      else if (field == "thinking_start_token")
        parts_.back() += "<think>";
      else if (field == "thinking_end_token")
        parts_.back() += "</think>";
      else
        throw std::runtime_error(fmt::format("unknown field {{{}}} in a format", field));
      format.remove_prefix(end + 1);
    }
  }
}

std::string ToolsText::with(std::string_view schemas) const { return fmt::to_string(fmt::join(parts_, schemas)); }

ToolsText tools_text(ToolsHeader header) {
  return ToolsText(fmt::to_string(fmt::join(kParagraphs, header == ToolsHeader::kSpaced ? "\n\n" : "\n")));
}

std::optional<ToolsText> read_tools_text(const std::filesystem::path& model) {
  const std::filesystem::path file = model / "encoding" / "encoding_dsv32.py";
  if (model.empty() || !std::filesystem::exists(file)) return std::nullopt;
  std::ifstream in(file, std::ios::binary);
  const std::string source{std::istreambuf_iterator<char>(in), {}};
  constexpr std::string_view kName = "TOOLS_SYSTEM_TEMPLATE";
  try {
    if (const auto text = assigned_string(source, kName)) return ToolsText(*text);
  } catch (const std::runtime_error& error) {
    fail(kExitModel, "{}: {}: {}", file.string(), kName, error.what());
  }
  fail(kExitModel, "{}: no string is assigned to {}, the text that tells the model about its tools", file.string(),
       kName);
}

}  // namespace kt
