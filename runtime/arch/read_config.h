#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// One object of a config file, read key by key with types and ranges checked. Every failure is Error(kExitModel)
// "config.json: text_config.num_experts: expected an integer in [1, 65536], found "16"". A null counts as absent.
class ConfigReader {
 public:
  // `path` stands before a key in messages: "config.json: " or "config.json: text_config.".
  ConfigReader(const nlohmann::json& object, std::string path);  // refuses what is not an object; keeps a reference

  bool has(const char* key) const { return find(key) != nullptr; }
  // The one of `keys`, names of one setting, that is there; the first when none is. Refuses values that differ.
  const char* one_of(std::initializer_list<const char*> keys) const;
  ConfigReader object(const char* key) const;

  int integer(const char* key, int low, int high) const;
  int integer_or(const char* key, int fallback, int low, int high) const;
  double number(const char* key, double low, double high) const;
  double number_or(const char* key, double fallback, double low, double high) const;
  bool boolean_or(const char* key, bool fallback) const;
  std::string text_or(const char* key, std::string_view fallback) const;
  std::vector<int> integers(const char* key, int low,
                            int high) const;              // a list; absent: empty; one number: a list of it
  std::vector<std::string> texts(const char* key) const;  // a list; absent: empty

  [[noreturn]] void refuse(const char* key, std::string_view why) const;

 private:
  const nlohmann::json* find(const char* key) const;  // nullptr: absent or null
  const nlohmann::json& require(const char* key, std::string_view what) const;
  [[noreturn]] void mismatch(const char* key, const nlohmann::json& found, std::string_view expected) const;
  int as_integer(const char* key, const nlohmann::json& value, int low, int high) const;

  const nlohmann::json& object_;
  std::string path_;
};

}  // namespace kt
