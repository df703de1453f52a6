#include "runtime/text/json/json_field.h"

#include <algorithm>

#include "runtime/base/error.h"

namespace kt {
namespace {

// "FILE: " + "model", "FILE: model" + "vocab"
std::string join(const std::string& where, std::string_view key) {
  return fmt::format("{}{}{}", where, where.ends_with(": ") ? "" : ".", key);
}

}  // namespace

void JsonField::only_keys(std::initializer_list<std::string_view> known) const {
  simdjson::dom::object object;
  if (value_.get(object)) refuse("an object is expected");
  for (const auto& [key, value] : object)
    if (std::find(known.begin(), known.end(), key) == known.end())
      JsonField(value, join(where_, key)).refuse("unknown field");
}

std::optional<JsonField> JsonField::find(std::string_view key) const {
  simdjson::dom::object object;
  if (value_.get(object)) refuse("an object is expected");
  simdjson::dom::element value;
  if (object.at_key(key).get(value) || value.is_null()) return std::nullopt;
  return JsonField(value, join(where_, key));
}

JsonField JsonField::at(std::string_view key) const {
  const auto field = find(key);
  if (!field) fail(kExitModel, "{}: the field is missing", join(where_, key));
  return *field;
}

std::vector<JsonField> JsonField::items() const {
  simdjson::dom::array array;
  if (value_.get(array)) refuse("a list is expected");
  std::vector<JsonField> fields;
  for (const simdjson::dom::element element : array)
    fields.emplace_back(element, fmt::format("{}[{}]", where_, fields.size()));
  return fields;
}

std::string_view JsonField::text() const {
  std::string_view text;
  if (value_.get(text)) refuse("a string is expected");
  return text;
}

bool JsonField::flag() const {
  bool flag = false;
  if (value_.get(flag)) refuse("true or false is expected");
  return flag;
}

bool JsonField::flag(std::string_view key, bool absent) const {
  const auto field = find(key);
  return field ? field->flag() : absent;
}

int32_t JsonField::token_id() const {
  int64_t id = 0;
  if (value_.get(id) || id < 0 || id >= kMaxTokenId)
    refuse(fmt::format("a token id from 0 to {} is expected", kMaxTokenId - 1));
  return static_cast<int32_t>(id);
}

void JsonField::refuse(std::string_view reason) const {
  std::string shown = simdjson::minify(value_);
  constexpr size_t kShown = 200;
  if (shown.size() > kShown) shown = shown.substr(0, kShown) + "...";
  fail(kExitModel, "{}: {} is not supported: {}", where_, shown, reason);
}

}  // namespace kt
