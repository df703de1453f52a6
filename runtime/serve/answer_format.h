#pragma once

#include <optional>
#include <string>

#include "runtime/serve/fields.h"
#include "runtime/serve/json.h"

namespace kt {

inline constexpr size_t kMaxFormatBytes = 64 << 10;
inline constexpr int kMaxFormatDepth = 32;

// What a client demands of the form of an answer: a format of a structural tag, see runtime/text/grammar.h.
struct AnswerFormat {
  Json format;
  std::string param;  // the field that demands it
};

// Reads `response_format` and, in SGLang's form, `json_schema`, `regex`, `ebnf` and `structural_tag`; at most one of
// them. Nothing when any text will do. Throws BadRequest, also for what is too large or would be left out.
std::optional<AnswerFormat> read_answer_format(const Fields& fields);

// A JSON array of {"name", "parameters"}, one element for each call: what the json_array tool parser reads.
// tools: OpenAI's list, checked by check_tools; `name`: the only function that may be called, "": any.
Json calls_format(const Json& tools, const std::string& name, bool one_call);

// `format` behind reasoning that the prompt has opened.
Json behind_reasoning(Json format);

std::string to_structural_tag(const Json& format);

}  // namespace kt
