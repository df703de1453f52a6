#pragma once

#include <simdjson.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// A value of a model's JSON file that knows where it stands, so that each complaint names file and field.
// All members throw Error(kExitModel).
class JsonField {
 public:
  JsonField(simdjson::dom::element value, std::string where) : value_(value), where_(std::move(where)) {}

  simdjson::dom::element value() const { return value_; }
  const std::string& where() const { return where_; }

  // Every key that the caller does not name is refused: what is not understood must not be ignored.
  void only_keys(std::initializer_list<std::string_view> known) const;
  std::optional<JsonField> find(std::string_view key) const;  // absent and null: nothing
  JsonField at(std::string_view key) const;
  std::vector<JsonField> items() const;

  std::string_view text() const;
  bool flag() const;
  bool flag(std::string_view key, bool absent) const;
  int32_t token_id() const;  // 0 <= id < kMaxTokenId

  // "tokenizer.json: model.dropout: 0.1 is not supported: <reason>"
  [[noreturn]] void refuse(std::string_view reason) const;

 private:
  simdjson::dom::element value_;
  std::string where_;
};

// Far above every vocabulary; a table of this size takes 128 MiB.
inline constexpr int32_t kMaxTokenId = 1 << 22;

}  // namespace kt
