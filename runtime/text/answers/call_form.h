#pragma once

#include <string_view>
#include <vector>

#include "runtime/text/answers/tool_parser.h"
#include "runtime/text/tokens/tokenizer.h"

namespace kt {

// How a model writes arguments that are no JSON: for each
//   before_name NAME (before_text TEXT | before_json JSON) after_value close
// Where both begin alike, the parameter's types tell which it is.
struct ParameterTags {
  std::string_view before_name, before_text, before_json, after_value, close;
};

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
  const ParameterTags* tags = nullptr;  // of the arguments; none: they are JSON
  std::string_view after_arguments, call_end;
  std::string_view between;
};

const CallForm* find_call_form(const ToolFormat& format);  // nullptr: its calls are no part of an answer

// The special tokens that calls are written with. The views live as long as the tokenizer.
std::vector<std::string_view> special_tokens_of(const CallForm& form, const Tokenizer& tokenizer);

}  // namespace kt
