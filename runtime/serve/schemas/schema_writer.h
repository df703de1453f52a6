#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/serve/schemas/schema_reader.h"

namespace kt {

// Writes what a SchemaReader reads as a schema of those few forms that the grammar compiler holds without leaving
// anything out:
//   {}, {"enum"}, {"anyOf"}, {"$ref": "#/$defs/..."}, and one "type" with keywords of that type that it can hold
//   together. "pattern"s are expressions of what stands between the quotes of JSON; with bare_strings, "bare" beside
//   them is one of the string itself, without any '<'.
// Throws BadRequest for combinations that it cannot.
class SchemaWriter {
 public:
  SchemaWriter(SchemaReader& reader, bool bare_strings) : reader_(reader), bare_strings_(bare_strings) {}

  // With "$defs", and never a "$ref" itself. Throws BadRequest when no value is admitted.
  Json write_root(const SchemaPlaces& places);

 private:
  using Written = std::optional<Json>;  // nothing: no value is admitted

  Written write(SchemaPlaces places);
  Written write(const Choice& choice);
  Written write(const Values& values);
  Written number(const Values& values);
  Written string(const Values& values);
  Written array(const Values& values);
  Written object(Values values);
  // Of an object's "propertyNames": lists the members where only some names are possible, else the names' form.
  std::optional<SchemaPattern> names(Values& values, bool& open);

  // Places that were written before, by their pointers: written once where that is not short.
  struct Definition {
    std::string name;
    bool open = true, referred = false;
    Written written;
  };

  Json string_of(const SchemaPattern& pattern) const;

  SchemaReader& reader_;
  const bool bare_strings_;
  std::map<std::string, Definition> definitions_;
  size_t count_ = 0;
};

}  // namespace kt
