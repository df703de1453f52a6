#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace kt {

// The JSON types that a schema admits, as a set.
enum JsonType : uint8_t {
  kNullType = 1,
  kBooleanType = 2,
  kIntegerType = 4,
  kNumberType = 8,  // integers too
  kObjectType = 16,
  kArrayType = 32,
  kStringType = 64,
  kAnyType = 127,
};
using JsonTypes = uint8_t;

JsonType type_of_value(const nlohmann::ordered_json& value);

// The fragment of a reference as a JSON pointer: "%3C" decoded. Nothing where a % is not followed by two digits.
std::optional<std::string> percent_decoded(std::string_view fragment);

// What the tools of a request say about the parameters of their functions. A client's schemas may be anything; what is
// not understood says nothing about types.
class ToolSchemas {
 public:
  explicit ToolSchemas(const nlohmann::ordered_json& tools);  // OpenAI's list

  // The parameter's types; nothing when the function or its parameter is unknown.
  std::optional<JsonTypes> types(std::string_view function, std::string_view parameter) const;

  // True also where the function names no parameters, as then nothing speaks against it.
  bool may_have(std::string_view function, std::string_view parameter) const;

 private:
  nlohmann::ordered_json parameters_ = nlohmann::ordered_json::object();  // function name -> JSON schema
};

}  // namespace kt
