#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/text/answers/tool_parser.h"

namespace kt {

// Calls written as tags around each parameter:
//   block_open call_open HEAD> param_open HEAD> value param_close ... call_close ... block_close
// with white space between tags. The dialects differ in the spelling of the tags and in what the heads hold.
struct TagDialect {
  struct Parameter {
    std::string name;
    enum class Is { kTyped, kString, kJson } is;  // kTyped: as the tool's schema says
  };

  std::string_view block_open, block_close;
  std::string_view call_open, call_close;
  std::string_view param_open, param_close;
  bool values_on_own_lines;  // a newline before and after each value belongs to the markup
  bool object_in_block;      // a block may hold a call as one JSON object, as Hermes has it
  bool never_text;           // no answer speaks of the tags: blocks without a call and closing tags alone are dropped

  // What stands between the opening of a tag and its '>'; nothing when it is not such a head.
  std::optional<std::string> (*read_call)(std::string_view head);
  std::optional<Parameter> (*read_parameter)(std::string_view head);
};

// How tags are told from text that looks like them:
// - A call begins where its opening tag is followed by a parameter, by its end, or by a JSON object with all arguments.
// - A value ends at a closing tag that is followed by another tag of the call; at one amid text only if no other comes.
// - A closing tag that the model forgot is understood where a line starts another parameter that the tool has, and
//   where the call ends without the value's closing tag ever coming.
// - A closing tag behind a call belongs to it, however many came before.
// - A whole call inside a value (a file about calls, say) is part of the value.
std::unique_ptr<ToolParser> make_tagged_parser(const TagDialect& dialect, const nlohmann::ordered_json& tools);

}  // namespace kt
