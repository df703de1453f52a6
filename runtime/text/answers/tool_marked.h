#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "runtime/text/answers/tool_parser.h"

namespace kt {

// Calls written as a head and a JSON object between special tokens:
//   section_begin (call_begin HEAD separator [NAME newline fence] arguments [fence] call_end)... section_end
// The arguments are passed on as the model wrote them.
struct MarkedDialect {
  std::string_view section_begin, section_end;
  std::string_view call_begin, separator, call_end;
  bool name_in_fence;  // the name and a fenced block of JSON follow the separator

  std::string (*name_of)(std::string_view head);
};

// Special tokens never become content: where they do not make a call, they are dropped at the end of the answer, and
// inside a section. Outside, amid text, they are text like any other. Inside a string of the arguments they are too.
std::unique_ptr<ToolParser> make_marked_parser(const MarkedDialect& dialect);

}  // namespace kt
