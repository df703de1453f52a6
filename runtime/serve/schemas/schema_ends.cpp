#include "runtime/serve/schemas/schema_ends.h"

#include <algorithm>
#include <set>
#include <string>

namespace kt {
namespace {

constexpr std::string_view kDefinitions = "#/$defs/";

// Definitions known to have a value of finite size.
using Ending = std::set<std::string>;

size_t number_or(const Json& schema, const char* keyword, size_t otherwise) {
  const auto found = schema.find(keyword);
  return found == schema.end() ? otherwise : found->get<size_t>();
}

bool ends(const Json& schema, const Ending& ending);

bool member_ends(const Json& schema, const char* keyword, const Ending& ending) {
  const auto found = schema.find(keyword);
  return found == schema.end() || ends(*found, ending);
}

bool object_ends(const Json& schema, const Ending& ending) {
  const Json none = Json::object(), nothing = Json::array();
  const auto members = schema.find("properties"), required = schema.find("required");
  const Json& all = members == schema.end() ? none : *members;
  for (const auto& name : required == schema.end() ? nothing : *required)
    if (!ends(all[name.get_ref<const std::string&>()], ending)) return false;
  const auto listed =
      static_cast<size_t>(std::count_if(all.begin(), all.end(), [&](const Json& m) { return ends(m, ending); }));
  if (listed >= number_or(schema, "minProperties", 0)) return true;
  const auto patterns = schema.find("patternProperties");
  const bool matched = patterns != schema.end() &&
                       std::any_of(patterns->begin(), patterns->end(), [&](const Json& m) { return ends(m, ending); });
  return matched || member_ends(schema, "additionalProperties", ending);
}

// How many of the first items there can be.
size_t first_items(const Json& schema, const Ending& ending) {
  const auto first = schema.find("prefixItems");
  if (first == schema.end()) return 0;
  const auto endless =
      std::find_if(first->begin(), first->end(), [&](const Json& item) { return !ends(item, ending); });
  return static_cast<size_t>(endless - first->begin());
}

bool array_ends(const Json& schema, const Ending& ending) {
  const size_t least = number_or(schema, "minItems", 0), first = first_items(schema, ending);
  const size_t described = schema.contains("prefixItems") ? schema["prefixItems"].size() : 0;
  return least <= first || (first == described && member_ends(schema, "items", ending));
}

bool ends(const Json& schema, const Ending& ending) {
  if (schema.is_boolean()) return schema.get<bool>();
  if (const auto reference = schema.find("$ref"); reference != schema.end())
    return ending.contains(reference->get_ref<const std::string&>().substr(kDefinitions.size()));
  if (const auto branches = schema.find("anyOf"); branches != schema.end())
    return std::any_of(branches->begin(), branches->end(), [&](const Json& b) { return ends(b, ending); });
  const std::string type = schema.value("type", "");
  return type == "object" ? object_ends(schema, ending) : type == "array" ? array_ends(schema, ending) : true;
}

// In a schema that ends.
void leave_out(Json& schema, const Ending& ending);

void leave_out_all(Json& schemas, const Ending& ending) {
  for (auto member = schemas.begin(); member != schemas.end();) {
    if (ends(*member, ending)) {
      leave_out(*member++, ending);
    } else {
      member = schemas.erase(member);
    }
  }
}

void leave_out(Json& schema, const Ending& ending) {
  if (!schema.is_object() || schema.contains("$ref")) return;
  for (const char* several : {"anyOf", "properties", "patternProperties"}) {
    if (!schema.contains(several)) continue;
    leave_out_all(schema[several], ending);
    if (schema[several].empty()) schema.erase(several);
  }
  if (schema.contains("prefixItems")) {
    const size_t first = first_items(schema, ending);
    Json& items = schema["prefixItems"];
    if (first < items.size()) schema["items"] = Json(false);
    items.erase(items.begin() + static_cast<std::ptrdiff_t>(first), items.end());
    leave_out_all(items, ending);
    if (items.empty()) schema.erase("prefixItems");
  }
  for (const char* rest : {"items", "additionalProperties"}) {
    if (!schema.contains(rest)) continue;
    if (ends(schema[rest], ending)) {
      leave_out(schema[rest], ending);
    } else {
      schema[rest] = false;
      for (const char* of_rest : {"maxItems", "propertyNames"}) schema.erase(of_rest);
    }
  }
}

}  // namespace

std::optional<Json> without_endless(Json schema) {
  Ending ending;
  const auto definitions = schema.find("$defs");
  if (definitions == schema.end()) return schema;  // nothing refers to itself
  for (size_t before = size_t(-1); before != ending.size();) {
    before = ending.size();
    for (const auto& [name, definition] : definitions->items())
      if (ends(definition, ending)) ending.insert(name);
  }
  if (ending.size() == definitions->size()) return schema;
  if (!ends(schema, ending)) return std::nullopt;
  leave_out_all(*definitions, ending);
  leave_out(schema, ending);
  return schema;
}

}  // namespace kt
