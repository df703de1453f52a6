#pragma once

#include <string_view>
#include <vector>

#include "runtime/text/tokenizer.h"
#include "runtime/text/tool_parser.h"

namespace kt {

// How a model writes calls, as text that a grammar can hold it to: the spelling of its chat template, which its parser
// (tool_*.cpp) reads.
//   section_begin CALL between CALL ... section_end
// where CALL is
//   before_name NAME after_name [digits] before_arguments ARGUMENTS after_arguments call_end
struct CallForm {
  std::string_view format;                      // a ToolFormat's name
  std::string_view opener;                      // how the first call begins, and nothing else in an answer
  std::string_view without_opener;              // what the parser would take for a call as well; "": nothing
  std::string_view section_begin, section_end;  // "": every call has its own opener
  std::string_view before_name, after_name;
  bool numbered = false;  // digits follow
  std::string_view before_arguments;
  std::string_view style = "json";  // of the arguments, in xgrammar's words
  std::string_view after_arguments, call_end;
  std::string_view between;
};

const CallForm* find_call_form(const ToolFormat& format);  // nullptr: its calls are no part of an answer

// The special tokens that calls are written with. The views live as long as the tokenizer.
std::vector<std::string_view> special_tokens_of(const CallForm& form, const Tokenizer& tokenizer);

}  // namespace kt
