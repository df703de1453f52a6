#include "runtime/serve/schemas/schema_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <stdexcept>

#include "runtime/serve/errors.h"
#include "runtime/serve/schemas/answer_schema.h"
#include "runtime/serve/schemas/schema_formats.h"

namespace kt {
namespace {

using Words = std::span<const std::string_view>;

constexpr int kMaxDepth = 64;
constexpr size_t kMaxBranches = 1024;  // of a union, with all that is said beside it
constexpr int kMaxReads = 20000;       // of schemas, in all: they may fan out where they lead to each other

// Keywords that nothing here can hold, whatever stands beside them.
constexpr std::string_view kUnknown[] = {"not",           "if",           "then",    "else",    "$dynamicRef",
                                         "$recursiveRef", "dependencies", "extends", "disallow"};

constexpr std::string_view kOfNumbers[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"};
constexpr std::string_view kOfStrings[] = {"minLength", "maxLength", "pattern", "format"};
constexpr std::string_view kOfArrays[] = {"items",    "prefixItems", "additionalItems", "minItems",
                                          "maxItems", "uniqueItems", "contains"};
constexpr std::string_view kOfObjects[] = {"properties",        "required",          "additionalProperties",
                                           "patternProperties", "propertyNames",     "minProperties",
                                           "maxProperties",     "dependentRequired", "dependentSchemas"};

const Json* find(const Json& schema, std::string_view keyword) {
  const auto found = schema.find(std::string(keyword));
  return found == schema.end() ? nullptr : &*found;
}

bool has_any(const Json& schema, Words words) {
  return std::any_of(words.begin(), words.end(), [&](std::string_view word) { return find(schema, word) != nullptr; });
}

std::string pointer_token(std::string_view token) {
  std::string out;
  for (const char c : token) {
    if (c == '~')
      out += "~0";
    else if (c == '/')
      out += "~1";
    else
      out += c;
  }
  return out;
}

std::string unescaped(std::string_view token) {
  std::string out;
  for (size_t i = 0; i < token.size(); ++i) {
    const bool escape = token[i] == '~' && i + 1 < token.size();
    out += escape ? (token[++i] == '1' ? '/' : '~') : token[i];
  }
  return out;
}

struct NamedType {
  std::string_view name;
  JsonType type;
};
constexpr NamedType kTypes[] = {{"null", kNullType},     {"boolean", kBooleanType}, {"integer", kIntegerType},
                                {"number", kNumberType}, {"string", kStringType},   {"array", kArrayType},
                                {"object", kObjectType}};

}  // namespace

SchemaPlace inside(const SchemaPlace& place, std::string_view keyword) {
  return {&place.schema->at(std::string(keyword)), fmt::format("{}/{}", place.pointer, pointer_token(keyword))};
}
SchemaPlace inside(const SchemaPlace& place, std::string_view keyword, const std::string& name) {
  const SchemaPlace outer = inside(place, keyword);
  return {&outer.schema->at(name), fmt::format("{}/{}", outer.pointer, pointer_token(name))};
}
SchemaPlace inside(const SchemaPlace& place, std::string_view keyword, size_t index) {
  const SchemaPlace outer = inside(place, keyword);
  return {&outer.schema->at(index), fmt::format("{}/{}", outer.pointer, index)};
}

std::string SchemaReader::param(const SchemaPlace& place) const {
  std::string out = param_;
  std::string_view rest = place.pointer;
  while (rest.find('/') != rest.npos) {
    rest.remove_prefix(rest.find('/') + 1);
    const std::string token = unescaped(rest.substr(0, rest.find('/')));
    const bool index = !token.empty() && std::all_of(token.begin(), token.end(), ::isdigit);
    out += index ? '[' + token + ']' : '.' + token;
  }
  return out;
}

void SchemaReader::refuse(const SchemaPlace& place, std::string_view keyword, std::string_view why) const {
  const std::string at = param(place);
  throw BadRequest(
      at, fmt::format("{}: this server cannot hold answers to \"{}\" at {}{}", at, keyword, place.pointer, why),
      "unsupported");
}

void SchemaReader::wrong(const SchemaPlace& place, std::string_view keyword, std::string_view why) const {
  const std::string at = keyword.empty() ? param(place) : fmt::format("{}.{}", param(place), keyword);
  throw BadRequest(at, fmt::format("{}: {} (in the schema at {})", at, why, place.pointer), "invalid_schema");
}

// References.

SchemaPlace SchemaReader::follow(const SchemaPlace& place) const {
  const Json& ref = place.schema->at("$ref");
  if (!ref.is_string()) wrong(place, "$ref", "expected a string");
  const std::string& uri = ref.get_ref<const std::string&>();
  if (uri != "#" && !uri.starts_with("#/"))
    refuse(place, "$ref", fmt::format(": \"{}\" is no place in this schema; they begin with \"#/\"", uri));
  const std::optional<std::string> pointer = percent_decoded(std::string_view(uri).substr(1));
  try {
    if (pointer) return {&root_.at(Json::json_pointer(*pointer)), '#' + *pointer};
  } catch (const Json::exception&) {  // no JSON pointer, or to nothing
  }
  wrong(place, "$ref", fmt::format("there is nothing at \"{}\"", uri));
}

SchemaPlace SchemaReader::target(SchemaPlace place) const {
  std::set<const Json*> seen;
  while (place.schema->is_object() && place.schema->contains("$ref") && seen.insert(place.schema).second) {
    const auto says = [](const std::string& keyword) {
      return has_any(Json{{keyword, 0}}, kUnknown) || has_any(Json{{keyword, 0}}, kOfNumbers) ||
             has_any(Json{{keyword, 0}}, kOfStrings) || has_any(Json{{keyword, 0}}, kOfArrays) ||
             has_any(Json{{keyword, 0}}, kOfObjects) || keyword == "type" || keyword == "enum" || keyword == "const" ||
             keyword == "anyOf" || keyword == "oneOf" || keyword == "allOf" || keyword == "unevaluatedItems" ||
             keyword == "unevaluatedProperties";
    };
    for (const auto& [keyword, value] : place.schema->items()) {
      if (says(keyword)) return place;
    }
    place = follow(place);
  }
  return place;
}

// Reading.

Choice SchemaReader::read(const SchemaPlaces& places) {
  Choice choice;
  for (const SchemaPlace& place : places) choice = both(place, std::move(choice), read(place));
  return choice;
}

Choice SchemaReader::read(const SchemaPlace& place) {
  const Json& schema = *place.schema;
  if (schema == true) return std::nullopt;
  if (schema == false) return std::vector<Values>();
  if (!schema.is_object()) wrong(place, "", "expected a schema: an object, true or false");
  if (depth_ >= kMaxDepth || ++reads_ > kMaxReads) refuse(place, "$ref", ": schemas lead to too many others");
  if (open_.contains(&schema)) refuse(place, "$ref", ": it leads back to itself");
  const Open open(*this, &schema);
  for (const std::string_view keyword : kUnknown) {
    if (find(schema, keyword)) refuse(place, keyword, "; leave it out");
  }
  if (find(schema, "$id") && place.pointer != "#") refuse(place, "$id", " inside a schema; leave it out");

  Choice choice = read_own(place);
  if (const Json* values = find(schema, "enum")) choice = both(place, std::move(choice), read_listed(place, *values));
  if (const Json* value = find(schema, "const"))
    choice = both(place, std::move(choice), read_listed(place, Json::array({*value})));
  if (find(schema, "$ref")) choice = both(place, std::move(choice), read(follow(place)));
  if (const Json* all = find(schema, "allOf")) {
    if (!all->is_array()) wrong(place, "allOf", "expected a list of schemas");
    for (size_t i = 0; i < all->size(); ++i) choice = both(place, std::move(choice), read(inside(place, "allOf", i)));
  }
  for (const std::string_view keyword : {"anyOf", "oneOf"}) {
    if (find(schema, keyword)) choice = either(place, keyword, choice);
  }

  const bool members = find(schema, "unevaluatedProperties"), items = find(schema, "unevaluatedItems");
  if ((members || items) && !choice) {
    choice.emplace();
    for (const NamedType& type : kTypes) {
      if (type.type != kIntegerType) choice->push_back({.type = type.type, .place = place});
    }
  }
  if (!members && !items) return choice;
  for (Values& values : *choice) {
    if (values.only && values.only->is_structured())
      refuse(place, members ? "unevaluatedProperties" : "unevaluatedItems", " beside fixed values");
    if (members && values.type == kObjectType && !values.others)
      values.others = SchemaPlaces{inside(place, "unevaluatedProperties")};
    if (items && values.type == kArrayType && !values.rest)
      values.rest = SchemaPlaces{inside(place, "unevaluatedItems")};
  }
  return choice;
}

// The branches of the keyword, each with what is said beside it.
Choice SchemaReader::either(const SchemaPlace& place, std::string_view keyword, const Choice& beside) {
  const Json& list = place.schema->at(std::string(keyword));
  if (!list.is_array() || list.empty()) wrong(place, keyword, "expected a list of schemas");
  std::vector<Choice> branches;
  for (size_t i = 0; i < list.size(); ++i) branches.push_back(both(place, beside, read(inside(place, keyword, i))));
  if (keyword == "oneOf") check_apart(place, branches);
  Choice all = std::vector<Values>();
  for (const Choice& branch : branches) {
    if (!branch) return std::nullopt;
    all->insert(all->end(), branch->begin(), branch->end());
    if (all->size() > kMaxBranches) refuse(place, keyword, fmt::format(": more than {} combinations", kMaxBranches));
  }
  return all;
}

Choice SchemaReader::read_listed(const SchemaPlace& place, const Json& list) {
  if (!list.is_array() || list.empty()) wrong(place, "enum", "expected a list of values");
  std::vector<Values> all;
  for (const Json& value : list) {
    Values values{.type = type_of_value(value), .place = place, .only = value};
    if (values.type == kIntegerType) values.type = kNumberType;
    all.push_back(std::move(values));
  }
  return all;
}

// What the schema itself says of types and by the keywords of types.
Choice SchemaReader::read_own(const SchemaPlace& place) {
  const Json& schema = *place.schema;
  const Json* types = find(schema, "type");
  if (!types && !has_any(schema, kOfNumbers) && !has_any(schema, kOfStrings) && !has_any(schema, kOfArrays) &&
      !has_any(schema, kOfObjects))
    return std::nullopt;

  const Json list = !types ? Json() : types->is_array() ? *types : Json::array({*types});
  if (types && list.empty()) wrong(place, "type", "expected a type or a list of types");
  for (const Json& name : types ? list : Json::array()) {
    if (std::none_of(std::begin(kTypes), std::end(kTypes), [&](const NamedType& t) { return name == t.name; }))
      wrong(place, "type", fmt::format("{} is no type", dump(name)));
  }
  const auto listed = [&](std::string_view name) {
    return !types || std::find(list.begin(), list.end(), Json(name)) != list.end();
  };
  std::vector<Values> all;
  for (const NamedType& type : kTypes) {
    const bool integer = type.type == kIntegerType;
    if (!listed(type.name) || (integer && listed("number"))) continue;
    all.push_back(read_type(place, integer ? kNumberType : type.type, integer));
  }
  std::erase_if(all, is_empty);
  return all;
}

Values SchemaReader::read_type(const SchemaPlace& place, JsonType type, bool integer) {
  Values values{.type = type, .place = place, .integer = integer};
  switch (type) {
    case kNumberType: read_numbers(place, values); break;
    case kStringType: read_strings(place, values); break;
    case kArrayType: read_arrays(place, values); break;
    case kObjectType: read_objects(place, values); break;
    default: break;
  }
  return values;
}

void SchemaReader::read_numbers(const SchemaPlace& place, Values& out) {
  const auto number = [&](std::string_view keyword) -> std::optional<long double> {
    const Json* value = find(*place.schema, keyword);
    if (!value || value->is_boolean()) return std::nullopt;
    if (value->is_binary()) {  // more digits than an int64_t has
      const auto& digits = value->get_binary();
      return std::strtold(std::string(digits.begin(), digits.end()).c_str(), nullptr);
    }
    if (!value->is_number()) wrong(place, keyword, "expected a number");
    return value->is_number_float()      ? static_cast<long double>(value->get<double>())
           : value->is_number_unsigned() ? static_cast<long double>(value->get<uint64_t>())
                                         : static_cast<long double>(value->get<int64_t>());
  };
  const auto is_true = [&](std::string_view keyword) {  // as draft 4 has it
    const Json* value = find(*place.schema, keyword);
    return value && *value == true;
  };
  if (const auto least = number("minimum")) out.least = {*least, is_true("exclusiveMinimum")};
  if (const auto least = number("exclusiveMinimum"); least && (!out.least || *least >= out.least->value))
    out.least = {*least, true};
  if (const auto most = number("maximum")) out.most = {*most, is_true("exclusiveMaximum")};
  if (const auto most = number("exclusiveMaximum"); most && (!out.most || *most <= out.most->value))
    out.most = {*most, true};

  const auto step = number("multipleOf");
  if (!step) return;
  if (*step <= 0) wrong(place, "multipleOf", "expected a number above 0");
  const bool whole = *step == std::floor(*step);
  if (!whole && out.integer && 1 / *step == std::floor(1 / *step)) return;  // all integers are
  if (!whole || *step > 1024) refuse(place, "multipleOf", ", which is no integer from 1 to 1024; leave it out");
  out.integer = true;
  out.multiple_of = static_cast<int64_t>(*step);
}

void SchemaReader::read_strings(const SchemaPlace& place, Values& out) {
  const Json& schema = *place.schema;
  out.min_count = count(place, "minLength", 0);
  out.max_count = count(place, "maxLength", Values::kNoLimit);
  if (const Json* given = find(schema, "pattern")) {
    if (!given->is_string()) wrong(place, "pattern", "expected a string");
    out.pattern = pattern(place, "pattern", given->get_ref<const std::string&>());
  }
  const Json* format = find(schema, "format");
  if (!format || !format->is_string()) return;
  const std::string& name = format->get_ref<const std::string&>();
  if (is_unheld_format(name)) refuse(place, "format", fmt::format(" \"{}\"; leave it out", name));
  const std::optional<SchemaPattern> shape = format_shape(name);
  if (shape && out.pattern) refuse(place, "format", " beside \"pattern\"; leave one out");
  if (shape) out.pattern = shape;
}

void SchemaReader::read_arrays(const SchemaPlace& place, Values& out) {
  const Json& schema = *place.schema;
  if (find(schema, "contains")) refuse(place, "contains", "; leave it out");
  out.min_count = count(place, "minItems", 0);
  out.max_count = count(place, "maxItems", Values::kNoLimit);
  out.unique = schema.value("uniqueItems", Json(false)) == true;

  const Json* items = find(schema, "items");
  const bool tuple = items && items->is_array();  // as drafts before 2020-12 have it
  const std::string_view first = tuple ? "items" : "prefixItems", rest = tuple ? "additionalItems" : "items";
  if (const Json* list = find(schema, first)) {
    if (!list->is_array()) wrong(place, first, "expected a list of schemas");
    for (size_t i = 0; i < list->size(); ++i) out.first.push_back({inside(place, first, i)});
  }
  if (tuple && find(schema, "prefixItems")) wrong(place, "items", "expected a schema beside \"prefixItems\"");
  if (find(schema, rest)) out.rest = SchemaPlaces{inside(place, rest)};
}

void SchemaReader::read_objects(const SchemaPlace& place, Values& out) {
  const Json& schema = *place.schema;
  for (const std::string_view keyword : {"dependentRequired", "dependentSchemas"}) {
    if (const Json* given = find(schema, keyword); given && !given->empty()) refuse(place, keyword, "; leave it out");
  }
  out.min_count = count(place, "minProperties", 0);
  out.max_count = count(place, "maxProperties", Values::kNoLimit);
  static const Json kNone = Json::object();
  const auto schemas = [&](std::string_view keyword) -> const Json& {
    const Json* given = find(schema, keyword);
    if (given && !given->is_object()) wrong(place, keyword, "expected an object of schemas");
    return given ? *given : kNone;
  };
  for (const auto& [expression, inner] : schemas("patternProperties").items())
    out.pattern_members.push_back(
        {pattern(place, "patternProperties", expression), {inside(place, "patternProperties", expression)}});
  for (const auto& [name, inner] : schemas("properties").items()) {
    SchemaPlaces said = {inside(place, "properties", name)};
    for (const auto& [pattern, places] : out.pattern_members) {
      if (pattern.contains(name)) said = std::move(said) + places;
    }
    out.members.emplace_back(name, std::move(said));
  }
  if (find(schema, "additionalProperties")) out.others = SchemaPlaces{inside(place, "additionalProperties")};
  if (find(schema, "propertyNames")) out.names = {inside(place, "propertyNames")};
  const Json* required = find(schema, "required");
  if (!required || required->is_boolean()) return;  // a boolean: draft 3's, of the member itself; means nothing since
  if (!required->is_array()) wrong(place, "required", "expected a list of names");
  for (const Json& name : *required) {
    if (!name.is_string()) wrong(place, "required", "expected a list of names");
    if (std::find(out.required.begin(), out.required.end(), name) == out.required.end())
      out.required.push_back(name.get<std::string>());
  }
}

SchemaPattern SchemaReader::pattern(const SchemaPlace& place, std::string_view keyword,
                                    const std::string& expression) const {
  check_expression(expression, fmt::format("{}.{}", param(place), keyword));
  try {
    return SchemaPattern(expression);
  } catch (const std::invalid_argument& e) {
    refuse(place, keyword, fmt::format(": {}", e.what()));
  }
}

uint64_t SchemaReader::count(const SchemaPlace& place, std::string_view keyword, uint64_t otherwise) const {
  const Json* value = find(*place.schema, keyword);
  if (!value) return otherwise;
  const long double number = value->is_number() ? value->get<long double>() : -1;
  if (value->is_binary()) return Values::kNoLimit;
  if (number < 0 || number != std::floor(number)) wrong(place, keyword, "expected an integer of at least 0");
  return number > 1e18L ? Values::kNoLimit : static_cast<uint64_t>(number);
}

}  // namespace kt
