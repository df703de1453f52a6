#include "runtime/serve/answer_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/serve/errors.h"
#include "runtime/serve/fields.h"

namespace kt {
namespace {

using Words = std::span<const std::string_view>;

constexpr std::string_view kUnknown[] = {
    "not",      "if",          "then",        "else",       "dependentRequired", "dependentSchemas",
    "contains", "minContains", "maxContains", "$dynamicRef"};
// The first of these that a schema has is all that is read of it.
constexpr std::string_view kAlternatives[] = {"$ref", "const", "enum", "anyOf", "oneOf", "allOf"};
constexpr std::string_view kRestrictions[] = {"properties",
                                              "required",
                                              "additionalProperties",
                                              "patternProperties",
                                              "items",
                                              "prefixItems",
                                              "minItems",
                                              "maxItems",
                                              "minLength",
                                              "maxLength",
                                              "pattern",
                                              "format",
                                              "minimum",
                                              "maximum",
                                              "exclusiveMinimum",
                                              "exclusiveMaximum",
                                              "anyOf",
                                              "oneOf",
                                              "allOf",
                                              "multipleOf"};
constexpr std::string_view kOfObjects[] = {"properties",    "additionalProperties",  "patternProperties",
                                           "propertyNames", "unevaluatedProperties", "required"};
constexpr std::string_view kOfArrays[] = {"items", "prefixItems", "unevaluatedItems", "additionalItems"};

constexpr std::string_view kNamedSchemas[] = {"properties", "patternProperties", "$defs", "definitions"};
constexpr std::string_view kSchemaLists[] = {"anyOf", "oneOf", "allOf", "prefixItems"};
constexpr std::string_view kSchemas[] = {"items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems",
                                         "propertyNames"};

// The bound of "{2}", "{2,5}" or "{2,}" at `at`, the larger one; past the digits afterwards.
size_t repeat_count(std::string_view text, size_t& at) {
  size_t count = 0;
  for (size_t number = 0; ++at < text.size() && (text[at] == ',' || (text[at] >= '0' && text[at] <= '9'));) {
    number = text[at] == ',' ? 0 : std::min<size_t>(10 * number + static_cast<size_t>(text[at] - '0'), 1 << 30);
    count = std::max(count, number);
  }
  return count;
}

bool has_any(const Json& schema, Words words) {
  return std::any_of(words.begin(), words.end(), [&](std::string_view w) { return schema.contains(std::string(w)); });
}

void refuse(const std::string& path, std::string_view keyword, std::string_view why) {
  throw BadRequest(path, fmt::format("{}: this server cannot hold answers to \"{}\"{}", path, keyword, why),
                   "unsupported");
}

void check_keywords(const Json& schema, const std::string& path) {
  for (const std::string_view keyword : kUnknown) {
    if (schema.contains(std::string(keyword))) refuse(path, keyword, "; leave it out");
  }
  if (const auto pattern = schema.find("pattern"); pattern != schema.end() && pattern->is_string())
    check_expression(pattern->get_ref<const std::string&>(), path + ".pattern");
  if (schema.value("uniqueItems", Json(false)) == true) refuse(path, "uniqueItems", "; leave it out");
  const auto first = std::find_if(std::begin(kAlternatives), std::end(kAlternatives),
                                  [&](std::string_view w) { return schema.contains(std::string(w)); });
  if (first == std::end(kAlternatives)) return;
  for (const std::string_view keyword : kRestrictions) {
    if (keyword != *first && schema.contains(std::string(keyword)))
      refuse(path, keyword, fmt::format(" beside \"{}\"; put it inside", *first));
  }
}

bool may_be(const Json& schema, std::string_view type) {
  const auto types = schema.find("type");
  if (types == schema.end()) return false;
  return types->is_array() ? std::find(types->begin(), types->end(), Json(type)) != types->end() : *types == type;
}

void open(Json& schema) {
  if (may_be(schema, "object") && !has_any(schema, kOfObjects)) schema["additionalProperties"] = true;
  if (may_be(schema, "array") && !has_any(schema, kOfArrays)) schema["items"] = Json::object();
}

// As a pattern, a string of few characters costs the engine 0.03 ms a token instead of 1.5 (250,000 tokens); beyond
// some hundred characters it is the other way round. Bounds beside a pattern or a format are the compiler's to refuse.
void bound_short_strings(Json& schema) {
  constexpr uint64_t kFewCharacters = 100;
  const auto most = schema.find("maxLength");
  const bool is_short = most != schema.end() && most->is_number_unsigned() && *most <= kFewCharacters;
  if (!is_short || !may_be(schema, "string") || schema.contains("pattern") || schema.contains("format")) return;
  const Json least = schema.value("minLength", Json(0));
  if (!least.is_number_unsigned() || least > *most) return;
  schema["pattern"] = fmt::format("^.{{{},{}}}$", least.get<uint64_t>(), most->get<uint64_t>());
  schema.erase("minLength");
  schema.erase("maxLength");
}

// Anything but an object is left to the compiler, which knows true and false and refuses the rest.
void prepare(Json& schema, const std::string& path) {
  if (!schema.is_object()) return;
  check_keywords(schema, path);
  open(schema);
  bound_short_strings(schema);
  for (auto& [keyword, value] : schema.items()) {
    const std::string at = fmt::format("{}.{}", path, keyword);
    const auto is_in = [&, &word = keyword](Words words) {
      return std::find(words.begin(), words.end(), std::string_view(word)) != words.end();
    };
    if (is_in(kSchemas)) prepare(value, at);
    if (is_in(kNamedSchemas) && value.is_object()) {
      for (auto& [name, inner] : value.items()) {
        if (keyword == "patternProperties") check_expression(name, at);
        prepare(inner, fmt::format("{}.{}", at, name));
      }
    }
    if (is_in(kSchemaLists) && value.is_array()) {
      for (size_t i = 0; i < value.size(); ++i) prepare(value[i], fmt::format("{}[{}]", at, i));
    }
  }
}

}  // namespace

void check_repeats(std::string_view expression, const std::string& path) {
  std::vector<size_t> groups = {0};  // parts of the open groups so far, without the latest one
  size_t latest = 0;
  for (size_t at = 0; at < expression.size(); ++at) {
    const char c = expression[at];
    if (c == '{') {
      latest *= std::max<size_t>(repeat_count(expression, at), 1);
      latest = std::min<size_t>(latest, 1 << 30);  // never overflows when multiplied once more
      continue;
    }
    groups.back() += std::exchange(latest, 0);
    if (c == '(') {
      groups.push_back(0);
    } else if (c == ')' && groups.size() > 1) {
      latest = groups.back();
      groups.pop_back();
    } else if (c == '[') {
      latest = 1;
      while (++at < expression.size() && expression[at] != ']') at += expression[at] == '\\';
    } else {
      latest = c != '*' && c != '+' && c != '?' && c != '|';
      at += c == '\\';
    }
  }
  const size_t parts = std::accumulate(groups.begin(), groups.end(), latest);
  if (parts > kMaxRepeatedParts && parts > expression.size())
    throw BadRequest(path, fmt::format("{}: has {} parts when its repeats are written out, more than the limit of {}",
                                       path, parts, kMaxRepeatedParts));
}

void check_expression(std::string_view expression, const std::string& path) {
  if (expression.size() > kMaxExpressionBytes)
    throw BadRequest(path, fmt::format("{}: {} bytes are more than the limit of {} of a regular expression", path,
                                       expression.size(), kMaxExpressionBytes));
  check_repeats(expression, path);
}

Json checked_schema(const Json& schema, const std::string& path) {
  Json checked = schema;
  prepare(checked, path);
  return checked;
}

}  // namespace kt
