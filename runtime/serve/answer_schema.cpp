#include "runtime/serve/answer_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

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

// Anything but an object is left to the compiler, which knows true and false and refuses the rest.
void prepare(Json& schema, const std::string& path) {
  if (!schema.is_object()) return;
  check_keywords(schema, path);
  open(schema);
  for (auto& [keyword, value] : schema.items()) {
    const std::string at = fmt::format("{}.{}", path, keyword);
    const auto is_in = [&, &word = keyword](Words words) {
      return std::find(words.begin(), words.end(), std::string_view(word)) != words.end();
    };
    if (is_in(kSchemas)) prepare(value, at);
    if (is_in(kNamedSchemas) && value.is_object()) {
      for (auto& [name, inner] : value.items()) prepare(inner, fmt::format("{}.{}", at, name));
    }
    if (is_in(kSchemaLists) && value.is_array()) {
      for (size_t i = 0; i < value.size(); ++i) prepare(value[i], fmt::format("{}[{}]", at, i));
    }
  }
}

}  // namespace

Json checked_schema(const Json& schema, const std::string& path) {
  Json checked = schema;
  prepare(checked, path);
  return checked;
}

}  // namespace kt
