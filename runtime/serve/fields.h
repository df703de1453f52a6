#pragma once

#include <cfloat>
#include <climits>
#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/serve/json.h"

namespace kt {

// Bounds of a number, both included unless `above` says that min itself is out.
struct Range {
  double min = -FLT_MAX;
  double max = FLT_MAX;
  bool above = false;
};

// Reads the members of one JSON object into variables, by name. A member that is absent or null leaves its variable
// as it is; one of the wrong type or out of range throws BadRequest with the member's full path. Unknown members are
// the caller's business: clients send new ones every month, and they are ignored.
class Fields {
 public:
  explicit Fields(const Json& object, std::string path = "");  // throws BadRequest when it is not an object

  const Json& json() const { return object_; }
  const Json* find(std::string_view name) const;     // null: absent or null
  const Json& require(std::string_view name) const;  // throws BadRequest when it is absent or null
  const std::string& require_string(std::string_view name) const;
  std::string path(std::string_view name) const {
    return path_.empty() ? std::string(name) : path_ + "." + std::string(name);
  }

  bool read(std::string_view name, float& out, Range range = {}) const;
  bool read(std::string_view name, int& out, int min = INT_MIN, int max = INT_MAX) const;
  bool read(std::string_view name, bool& out) const;
  bool read(std::string_view name, std::string& out, size_t max_bytes = SIZE_MAX) const;

 private:
  const Json& object_;
  std::string path_;
};

// The name in messages of an element of a list.
std::string element_of(const std::string& path, size_t index);

// The same for single values, `path` being the name in messages.
double to_number(const Json& value, const std::string& path, Range range = {});
int64_t to_integer(const Json& value, const std::string& path, int64_t min, int64_t max);  // also takes 5.0
const std::string& to_string(const Json& value, const std::string& path);

// "a string", "null", "an object", ...: for "expected a number, found a string".
std::string_view kind_of(const Json& value);

}  // namespace kt
