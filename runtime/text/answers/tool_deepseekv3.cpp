// DeepSeek V3 and V3.1; the bars are U+FF5C, the low blocks U+2581:
//   V3.1: <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>...<｜tool▁calls▁end｜>
//   V3:   ...<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n{...}\n```<｜tool▁call▁end｜>...

#include "runtime/text/answers/tool_marked.h"

namespace kt {
namespace {

constexpr MarkedDialect dialect(bool name_in_fence) {
  return {
      .section_begin = "<｜tool▁calls▁begin｜>",
      .section_end = "<｜tool▁calls▁end｜>",
      .call_begin = "<｜tool▁call▁begin｜>",
      .separator = "<｜tool▁sep｜>",
      .call_end = "<｜tool▁call▁end｜>",
      .name_in_fence = name_in_fence,
      .name_of = [](std::string_view head) { return std::string(trimmed(head)); },
  };
}

constexpr MarkedDialect kV31 = dialect(false);
constexpr MarkedDialect kV3 = dialect(true);

}  // namespace

std::unique_ptr<ToolParser> make_deepseek_v31_parser(const nlohmann::ordered_json&) { return make_marked_parser(kV31); }
std::unique_ptr<ToolParser> make_deepseek_v3_parser(const nlohmann::ordered_json&) { return make_marked_parser(kV3); }

}  // namespace kt
