#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/serve/json.h"
#include "runtime/text/answers/tool_schema.h"
#include "runtime/text/grammars/schema_pattern.h"

namespace kt {

// A schema inside the client's, by its JSON pointer ("#/properties/a").
struct SchemaPlace {
  const Json* schema;
  std::string pointer;
};

// What all of these admit; none: any value.
using SchemaPlaces = std::vector<SchemaPlace>;

struct NumberBound {
  long double value;  // holds every int64_t and every double
  bool out = false;   // the bound itself is not admitted
};

// Values of one type: what a schema says about them, all of it. Schemas inside are read when they are needed.
struct Values {
  static constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

  JsonType type;
  SchemaPlace place;         // that says so, for messages
  std::optional<Json> only;  // this value; then nothing else is set

  bool integer = false;  // of numbers
  std::optional<NumberBound> least, most;
  int64_t multiple_of = 1;  // with integer

  uint64_t min_count = 0, max_count = kNoLimit;  // characters, items, members
  std::optional<SchemaPattern> pattern;          // of strings

  // Arrays: the schemas of the first items and of the rest. Nothing: not said.
  std::vector<SchemaPlaces> first;
  std::optional<SchemaPlaces> rest;
  bool unique = false;

  // Objects.
  std::vector<std::pair<std::string, SchemaPlaces>> members;
  std::vector<std::pair<SchemaPattern, SchemaPlaces>> pattern_members;
  std::optional<SchemaPlaces> others;  // additionalProperties; nothing: not said
  SchemaPlaces names;
  std::vector<std::string> required;

  const SchemaPlaces* member(const std::string& name) const;
  // What is said of a member of that name, whatever says it.
  SchemaPlaces said_of(const std::string& name) const;
};

// A union; no elements: no value at all. Nothing: any value.
using Choice = std::optional<std::vector<Values>>;

SchemaPlaces operator+(SchemaPlaces a, const SchemaPlaces& b);

}  // namespace kt
