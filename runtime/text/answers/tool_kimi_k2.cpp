// Kimi K2, with call ids that count over the conversation:
//   <|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:K<|tool_call_argument_begin|>{...}<|tool_call_end|>
//   ...<|tool_calls_section_end|>
// A name may hold any characters.

#include "runtime/text/answers/tool_marked.h"

namespace kt {
namespace {

std::string name_of(std::string_view head) {
  constexpr std::string_view kPrefix = "functions.";
  std::string_view name = trimmed(head);
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  const size_t colon = name.rfind(':');
  if (colon != name.npos && name.find_first_not_of("0123456789", colon + 1) == name.npos) name = name.substr(0, colon);
  return std::string(trimmed(name));
}

constexpr MarkedDialect kKimiK2 = {
    .section_begin = "<|tool_calls_section_begin|>",
    .section_end = "<|tool_calls_section_end|>",
    .call_begin = "<|tool_call_begin|>",
    .separator = "<|tool_call_argument_begin|>",
    .call_end = "<|tool_call_end|>",
    .name_in_fence = false,
    .name_of = name_of,
};

}  // namespace

std::unique_ptr<ToolParser> make_kimi_k2_parser(const nlohmann::ordered_json&) { return make_marked_parser(kKimiK2); }

}  // namespace kt
