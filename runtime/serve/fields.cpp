#include "runtime/serve/fields.h"

#include <fmt/format.h>

#include <cmath>

#include "runtime/serve/errors.h"

namespace kt {
namespace {

[[noreturn]] void wrong_type(const std::string& path, std::string_view expected, const Json& found) {
  throw BadRequest(path, fmt::format("{}: expected {}, found {}", path, expected, kind_of(found)));
}

}  // namespace

std::string_view kind_of(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::object: return "an object";
    case Json::value_t::array: return "a list";
    case Json::value_t::string: return "a string";
    case Json::value_t::boolean: return "a boolean";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned: return "an integer";
    case Json::value_t::number_float: return "a number";
    default: return "an integer beyond 64 bits";  // how parse_exact keeps those
  }
}

std::string element_of(const std::string& path, size_t index) { return fmt::format("{}[{}]", path, index); }

double to_number(const Json& value, const std::string& path, Range range) {
  if (!value.is_number()) wrong_type(path, "a number", value);
  const double x = value.get<double>();
  const bool inside = range.above ? x > range.min : x >= range.min;
  if (inside && x <= range.max) return x;
  if (range.max == FLT_MAX && range.min == -FLT_MAX)
    throw BadRequest(path, fmt::format("{}: must be a finite 32-bit float, found {}", path, x));
  if (range.max == FLT_MAX)
    throw BadRequest(path, fmt::format("{}: must be finite and {} {}, found {}", path,
                                       range.above ? "above" : "at least", range.min, x));
  throw BadRequest(path, fmt::format("{}: must be {} {} and at most {}, found {}", path,
                                     range.above ? "above" : "at least", range.min, range.max, x));
}

int64_t to_integer(const Json& value, const std::string& path, int64_t min, int64_t max) {
  const auto out_of_range = [&] {
    return BadRequest(path, fmt::format("{}: must be an integer from {} to {}, found {}", path, min, max, dump(value)));
  };
  if (value.is_number_unsigned()) {
    const uint64_t x = value.get<uint64_t>();
    if (x > static_cast<uint64_t>(INT64_MAX)) throw out_of_range();
  } else if (value.is_number_float()) {
    const double x = value.get<double>();
    if (x != std::floor(x) || std::abs(x) > 9e15) throw out_of_range();
  } else if (!value.is_number_integer()) {
    wrong_type(path, "an integer", value);
  }
  const int64_t x = value.get<int64_t>();
  if (x < min || x > max) throw out_of_range();
  return x;
}

const std::string& to_string(const Json& value, const std::string& path) {
  if (!value.is_string()) wrong_type(path, "a string", value);
  return value.get_ref<const std::string&>();
}

Fields::Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object.is_object()) wrong_type(path_, "an object", object);
}

const Json* Fields::find(std::string_view name) const {
  const auto it = object_.find(std::string(name));
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

const Json& Fields::require(std::string_view name) const {
  const Json* value = find(name);
  if (!value) throw BadRequest(path(name), path(name) + ": is required");
  return *value;
}

const std::string& Fields::require_string(std::string_view name) const { return to_string(require(name), path(name)); }

bool Fields::read(std::string_view name, float& out, Range range) const {
  const Json* value = find(name);
  if (value) out = static_cast<float>(to_number(*value, path(name), range));
  return value != nullptr;
}

bool Fields::read(std::string_view name, int& out, int min, int max) const {
  const Json* value = find(name);
  if (value) out = static_cast<int>(to_integer(*value, path(name), min, max));
  return value != nullptr;
}

bool Fields::read(std::string_view name, bool& out) const {
  const Json* value = find(name);
  if (!value) return false;
  if (!value->is_boolean()) wrong_type(path(name), "true or false", *value);
  out = value->get<bool>();
  return true;
}

bool Fields::read(std::string_view name, std::string& out, size_t max_bytes) const {
  const Json* value = find(name);
  if (!value) return false;
  const std::string& text = to_string(*value, path(name));
  if (text.size() > max_bytes)
    throw BadRequest(path(name),
                     fmt::format("{}: {} bytes are more than the limit of {}", path(name), text.size(), max_bytes));
  out = text;
  return true;
}

}  // namespace kt
