#include "runtime/text/answers/tool_schema.h"

#include <charconv>
#include <string>
#include <utility>

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

// Bounds on schemas that refer to themselves or fan out: looks at sub-schemas per question, and how deep.
constexpr int kMaxLooks = 1000;
constexpr int kMaxSchemaDepth = 32;

const Json* member(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

JsonTypes named_type(const Json& name) {
  static constexpr std::pair<std::string_view, JsonType> kNames[] = {
      {"null", kNullType},     {"boolean", kBooleanType}, {"integer", kIntegerType}, {"number", kNumberType},
      {"object", kObjectType}, {"array", kArrayType},     {"string", kStringType},
  };
  for (const auto& [known, type] : kNames)
    if (name == known) return type;
  return kAnyType;
}

JsonTypes intersection(JsonTypes a, JsonTypes b) {
  const bool integers = ((a & kNumberType) && (b & kIntegerType)) || ((b & kNumberType) && (a & kIntegerType));
  return (a & b) | (integers ? kIntegerType : 0);
}

// One question to a schema, JSON Schema 2020-12 as far as it speaks of types and properties.
class SchemaReader {
 public:
  explicit SchemaReader(const Json& root) : root_(root) {}

  JsonTypes types(const Json& schema, int depth = 0) {
    if (!may_look(depth) || !schema.is_object()) return kAnyType;
    JsonTypes admitted = kAnyType;
    if (const Json* type = member(schema, "type")) {
      if (type->is_array())
        admitted = intersection(admitted, any_of(*type, [](const Json& name) { return named_type(name); }));
      else
        admitted = intersection(admitted, named_type(*type));
    }
    if (const Json* values = member(schema, "enum"); values && values->is_array())
      admitted = intersection(admitted, any_of(*values, type_of_value));
    if (const Json* value = member(schema, "const")) admitted = intersection(admitted, type_of_value(*value));
    for (const char* keyword : {"anyOf", "oneOf"})
      if (const Json* choices = member(schema, keyword); choices && choices->is_array())
        admitted = intersection(admitted, any_of(*choices, [&](const Json& s) { return types(s, depth + 1); }));
    if (const Json* all = member(schema, "allOf"); all && all->is_array())
      for (const Json& part : *all) admitted = intersection(admitted, types(part, depth + 1));
    if (const Json* target = referred(schema)) admitted = intersection(admitted, types(*target, depth + 1));
    return admitted;
  }

  // The schema of a property, and whether the schema names properties at all.
  const Json* property(const Json& schema, std::string_view name, bool& names_some, int depth = 0) {
    if (!may_look(depth)) return nullptr;
    if (const Json* properties = member(schema, "properties"); properties && properties->is_object()) {
      names_some = names_some || !properties->empty();
      if (const Json* found = member(*properties, name)) return found;
    }
    for (const char* keyword : {"allOf", "anyOf", "oneOf"}) {
      const Json* parts = member(schema, keyword);
      if (!parts || !parts->is_array()) continue;
      for (const Json& part : *parts)
        if (const Json* found = property(part, name, names_some, depth + 1)) return found;
    }
    const Json* target = referred(schema);
    return target ? property(*target, name, names_some, depth + 1) : nullptr;
  }

 private:
  bool may_look(int depth) { return depth <= kMaxSchemaDepth && looks_++ < kMaxLooks; }

  template <class TypesOf>
  static JsonTypes any_of(const Json& choices, TypesOf types_of) {
    if (choices.empty()) return kAnyType;
    JsonTypes all = 0;
    for (const Json& choice : choices) all |= types_of(choice);
    return all;
  }

  // What "$ref": "#/..." points to in the same schema.
  const Json* referred(const Json& schema) const {
    const Json* ref = member(schema, "$ref");
    if (!ref || !ref->is_string()) return nullptr;
    const std::string& uri = ref->get_ref<const std::string&>();
    if (!uri.starts_with('#')) return nullptr;
    const std::optional<std::string> pointer = percent_decoded(std::string_view(uri).substr(1));
    if (!pointer) return nullptr;
    try {
      const Json::json_pointer place(*pointer);
      return root_.contains(place) ? &root_.at(place) : nullptr;
    } catch (const Json::exception&) {
      return nullptr;  // not a JSON pointer
    }
  }

  const Json& root_;
  int looks_ = 0;
};

}  // namespace

JsonType type_of_value(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return kNullType;
    case Json::value_t::boolean: return kBooleanType;
    case Json::value_t::number_float: return kNumberType;
    case Json::value_t::object: return kObjectType;
    case Json::value_t::array: return kArrayType;
    case Json::value_t::string: return kStringType;
    default: return kIntegerType;  // all lengths: parse_exact holds the long ones as binary
  }
}

std::optional<std::string> percent_decoded(std::string_view fragment) {
  std::string out;
  for (size_t i = 0; i < fragment.size(); ++i) {
    unsigned byte = static_cast<unsigned char>(fragment[i]);
    if (fragment[i] == '%') {
      const std::string_view digits = fragment.substr(i + 1, 2);
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), byte, 16);
      if (error != std::errc() || end != digits.data() + 2) return std::nullopt;
      i += 2;
    }
    out += static_cast<char>(byte);
  }
  return out;
}

ToolSchemas::ToolSchemas(const Json& tools) {
  if (!tools.is_array()) return;
  for (const Json& tool : tools) {
    const Json* function = member(tool, "function");
    const Json* name = function ? member(*function, "name") : nullptr;
    const Json* parameters = function ? member(*function, "parameters") : nullptr;
    if (name && name->is_string() && parameters) parameters_[name->get_ref<const std::string&>()] = *parameters;
  }
}

std::optional<JsonTypes> ToolSchemas::types(std::string_view function, std::string_view parameter) const {
  const Json* schema = member(parameters_, function);
  if (!schema) return std::nullopt;
  SchemaReader reader(*schema);
  bool names_some = false;
  const Json* found = reader.property(*schema, parameter, names_some);
  if (!found) return std::nullopt;
  return reader.types(*found);
}

bool ToolSchemas::may_have(std::string_view function, std::string_view parameter) const {
  const Json* schema = member(parameters_, function);
  if (!schema) return true;
  bool names_some = false;
  return SchemaReader(*schema).property(*schema, parameter, names_some) || !names_some;
}

}  // namespace kt
