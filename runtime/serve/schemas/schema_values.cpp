#include "runtime/serve/schemas/schema_values.h"

#include <algorithm>

namespace kt {

const SchemaPlaces* Values::member(const std::string& name) const {
  const auto found = std::find_if(members.begin(), members.end(), [&](const auto& m) { return m.first == name; });
  return found == members.end() ? nullptr : &found->second;
}

SchemaPlaces Values::said_of(const std::string& name) const {
  if (const SchemaPlaces* said = member(name)) return *said;
  SchemaPlaces said;
  bool matches = false;
  for (const auto& [expression, places] : pattern_members) {
    if (!expression.contains(name)) continue;
    matches = true;
    said = std::move(said) + places;
  }
  if (!matches && others) said = *others;
  return said;
}

SchemaPlaces operator+(SchemaPlaces a, const SchemaPlaces& b) {
  for (const SchemaPlace& place : b) {
    const bool known = std::any_of(a.begin(), a.end(), [&](const SchemaPlace& p) { return p.schema == place.schema; });
    if (!known) a.push_back(place);
  }
  return a;
}

}  // namespace kt
