#pragma once

#include <set>
#include <string>
#include <string_view>

#include "runtime/serve/schemas/schema_values.h"

namespace kt {

// Says which values a client's JSON schema (2020-12 and what earlier drafts wrote otherwise) admits, as unions of
// Values: references followed, allOf merged, keywords beside anyOf put into its branches. Throws BadRequest for what is
// wrong, and for each keyword that has an effect which no grammar can hold; so what is read is all that is said.
class SchemaReader {
 public:
  // root: outlives the reader. param: the request's field.
  SchemaReader(const Json& root, std::string param) : root_(root), param_(std::move(param)) {}

  SchemaPlace root() const { return {&root_, "#"}; }

  Choice read(const SchemaPlaces& places);

  // Do the schemas admit this value?
  bool admits(const SchemaPlaces& places, const Json& value);
  bool admits(const Values& values, const Json& value);

  // Follows "$ref" where the schema says nothing else, as far as it goes.
  SchemaPlace target(SchemaPlace place) const;

  [[noreturn]] void refuse(const SchemaPlace& place, std::string_view keyword, std::string_view why) const;
  [[noreturn]] void wrong(const SchemaPlace& place, std::string_view keyword, std::string_view why) const;

 private:
  Choice read(const SchemaPlace& place);
  Choice read_own(const SchemaPlace& place);
  Values read_type(const SchemaPlace& place, JsonType type, bool integer);
  void read_numbers(const SchemaPlace& place, Values& out);
  void read_strings(const SchemaPlace& place, Values& out);
  void read_arrays(const SchemaPlace& place, Values& out);
  void read_objects(const SchemaPlace& place, Values& out);
  Choice read_listed(const SchemaPlace& place, const Json& list);

  Choice both(const SchemaPlace& place, Choice a, const Choice& b);
  std::optional<Values> both(Values a, const Values& b);
  Choice either(const SchemaPlace& place, std::string_view keyword, const Choice& beside);
  void check_apart(const SchemaPlace& place, std::vector<Choice>& branches);
  static bool is_empty(const Values& values);  // by its bounds and counts
  bool excludes(Values& written, const Values& other);

  SchemaPattern pattern(const SchemaPlace& place, std::string_view keyword, const std::string& expression) const;
  uint64_t count(const SchemaPlace& place, std::string_view keyword, uint64_t otherwise) const;
  SchemaPlace follow(const SchemaPlace& place) const;
  std::string param(const SchemaPlace& place) const;

  // While a schema is being read.
  struct Open {
    Open(SchemaReader& owner, const Json* schema) : reader(owner), place(owner.open_.insert(schema).first) {
      ++reader.depth_;
    }
    ~Open() {
      reader.open_.erase(place);
      --reader.depth_;
    }
    SchemaReader& reader;
    std::set<const Json*>::iterator place;
  };

  const Json& root_;
  const std::string param_;
  std::set<const Json*> open_;
  int depth_ = 0, reads_ = 0;
};

// The place of a keyword's schema, or of one of its schemas.
SchemaPlace inside(const SchemaPlace& place, std::string_view keyword);
SchemaPlace inside(const SchemaPlace& place, std::string_view keyword, const std::string& name);
SchemaPlace inside(const SchemaPlace& place, std::string_view keyword, size_t index);

}  // namespace kt
