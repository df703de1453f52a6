#include "runtime/arch/read_config.h"

#include <utility>

#include "runtime/base/error.h"

namespace kt {

using nlohmann::json;

ConfigReader::ConfigReader(const json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object.is_object()) fail(kExitModel, "{}expected a JSON object, found {}", path_, object.type_name());
}

const char* ConfigReader::one_of(std::initializer_list<const char*> keys) const {
  const char* there = nullptr;
  for (const char* key : keys) {
    if (!has(key)) continue;
    if (there != nullptr && *find(key) != *find(there))
      refuse(key, fmt::format("is {}, but {} is {}", find(key)->dump(), there, find(there)->dump()));
    if (there == nullptr) there = key;
  }
  return there != nullptr ? there : *keys.begin();
}

ConfigReader ConfigReader::object(const char* key) const {
  const json& value = require(key, "an object");
  if (!value.is_object()) mismatch(key, value, "an object");
  return {value, path_ + key + "."};
}

int ConfigReader::integer(const char* key, int low, int high) const {
  return as_integer(key, require(key, fmt::format("an integer in [{}, {}]", low, high)), low, high);
}

int ConfigReader::integer_or(const char* key, int fallback, int low, int high) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double ConfigReader::number(const char* key, double low, double high) const {
  const std::string expected = fmt::format("a number in [{}, {}]", low, high);
  const json& value = require(key, expected);
  if (!value.is_number()) mismatch(key, value, expected);
  const auto x = value.get<double>();
  if (!(x >= low && x <= high)) mismatch(key, value, expected);
  return x;
}

double ConfigReader::number_or(const char* key, double fallback, double low, double high) const {
  return has(key) ? number(key, low, high) : fallback;
}

bool ConfigReader::boolean_or(const char* key, bool fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) mismatch(key, *value, "true or false");
  return value->get<bool>();
}

std::string ConfigReader::text_or(const char* key, std::string_view fallback) const {
  const json* value = find(key);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) mismatch(key, *value, "a string");
  return value->get<std::string>();
}

std::vector<int> ConfigReader::integers(const char* key, int low, int high) const {
  const json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {as_integer(key, *value, low, high)};
  std::vector<int> list;
  for (const json& item : *value) list.push_back(as_integer(key, item, low, high));
  return list;
}

std::vector<std::string> ConfigReader::texts(const char* key) const {
  const json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) mismatch(key, *value, "a list of strings");
  std::vector<std::string> list;
  for (const json& item : *value) {
    if (!item.is_string()) mismatch(key, item, "a list of strings");
    list.push_back(item.get<std::string>());
  }
  return list;
}

void ConfigReader::refuse(const char* key, std::string_view why) const {
  fail(kExitModel, "{}{}: {}", path_, key, why);
}

const json* ConfigReader::find(const char* key) const {
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

const json& ConfigReader::require(const char* key, std::string_view what) const {
  const json* value = find(key);
  if (value == nullptr) fail(kExitModel, "{}{} is missing: expected {}", path_, key, what);
  return *value;
}

void ConfigReader::mismatch(const char* key, const json& found, std::string_view expected) const {
  std::string text = found.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 100) text = text.substr(0, 100) + "...";
  fail(kExitModel, "{}{}: expected {}, found {}", path_, key, expected, text);
}

// 4096.0 is not an integer here; a config that says so was not written by the tools that make releases.
int ConfigReader::as_integer(const char* key, const json& value, int low, int high) const {
  const std::string expected = fmt::format("an integer in [{}, {}]", low, high);
  if (!value.is_number_integer()) mismatch(key, value, expected);
  if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) mismatch(key, value, expected);
  const auto x = value.get<int64_t>();
  if (x < low || x > high) mismatch(key, value, expected);
  return static_cast<int>(x);
}

}  // namespace kt
