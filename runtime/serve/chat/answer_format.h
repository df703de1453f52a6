#pragma once

#include <optional>
#include <string>

#include "runtime/serve/fields.h"
#include "runtime/serve/json.h"
#include "runtime/serve/schemas/answer_schema.h"

namespace kt {

inline constexpr size_t kMaxFormatBytes = 64 << 10;
inline constexpr int kMaxFormatDepth = 32;

// What a client demands of the form of an answer: a format of a structural tag, see runtime/text/grammars/grammar.h.
struct AnswerFormat {
  Json format;
  std::string param;       // the field that demands it
  bool amid_text = false;  // it holds only parts of the answer
};

// Reads `response_format` and, in SGLang's form, `json_schema`, `regex`, `ebnf` and `structural_tag`; at most one of
// them. Nothing when any text will do. Throws BadRequest, also for what is too large or would be left out.
std::optional<AnswerFormat> read_answer_format(const Fields& fields);

// A client's schema, given as an object or its text, as checked_schema() has it. Throws BadRequest, also for its size.
Json read_schema(const Json& schema, const std::string& path, SchemaUse use = {});

// JSON of a schema that was read.
Json json_format(Json schema);

inline Json schema_format(const Json& schema, const std::string& path, SchemaUse use = {}) {
  return json_format(read_schema(schema, path, use));
}

// `format` behind reasoning that the prompt has opened; excludes: texts that the reasoning must not have.
Json behind_reasoning(Json format, Json excludes);

std::string to_structural_tag(const Json& format);

}  // namespace kt
