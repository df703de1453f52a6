#include "runtime/text/answers/tool_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "runtime/text/answers/tool_scan.h"

namespace kt {
namespace {

bool is_json(std::string_view text) { return nlohmann::json::accept(text.begin(), text.end()); }

bool is_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool equals_ignoring_case(std::string_view text, std::string_view lower) {
  return std::equal(text.begin(), text.end(), lower.begin(), lower.end(),
                    [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == b; });
}

bool is_null(std::string_view text) { return equals_ignoring_case(text, "null") || text == "None"; }

// The type of a JSON text, by its first character.
JsonTypes json_type(std::string_view json) {
  switch (json.front()) {
    case 'n': return kNullType;
    case 't':
    case 'f': return kBooleanType;
    case '{': return kObjectType;
    case '[': return kArrayType;
    case '"': return kStringType;
    default: return json.find_first_of(".eE") == json.npos ? kIntegerType | kNumberType : kNumberType;
  }
}

std::string unless_string(JsonTypes types, std::string_view text) {
  const JsonTypes others = types & ~kStringType;
  const bool bare = !text.empty() && trimmed(text) == text;
  if (types != kAnyType && bare && is_json(text) && (json_type(text) & others)) return std::string(text);
  return json_quoted(text);
}

}  // namespace

std::string json_escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20)
          out += fmt::format("\\u{:04x}", static_cast<int>(c));
        else
          out += c;
    }
  }
  return out;
}

std::string json_quoted(std::string_view text) { return '"' + json_escaped(text) + '"'; }

std::string typed_value(JsonTypes types, std::string_view text) {
  if (types & kStringType) return unless_string(types, text);
  const std::string_view bare = trimmed(text);
  if (is_null(bare)) return "null";
  if (types & kBooleanType) {
    if (equals_ignoring_case(bare, "true")) return "true";
    if (equals_ignoring_case(bare, "false") || (types & ~kNullType) == kBooleanType) return "false";
  }
  if (types & (kIntegerType | kNumberType)) {
    const std::optional<std::string> number = json_number(bare);
    if (number && (json_type(*number) & types)) return *number;
  }
  if (types & (kObjectType | kArrayType)) {
    if (is_json(bare)) return std::string(bare);
    if (const auto json = json_of_python(bare)) return *json;
  }
  return json_quoted(text);
}

std::string json_value(std::string_view text) {
  const std::string_view bare = trimmed(text);
  if (is_json(bare)) return std::string(bare);
  return json_of_python(bare).value_or(json_quoted(text));
}

std::optional<std::string> json_number(std::string_view text) {
  std::string out;
  if (text.starts_with('-')) out = "-";
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);

  const size_t exponent_at = std::min(text.find_first_of("eE"), text.size());
  std::string_view mantissa = text.substr(0, exponent_at), exponent = text.substr(exponent_at);
  const size_t point = std::min(mantissa.find('.'), mantissa.size());
  std::string_view whole = mantissa.substr(0, point);
  const std::string_view fraction = point < mantissa.size() ? mantissa.substr(point + 1) : std::string_view();
  if (whole.empty() && fraction.empty()) return std::nullopt;
  if (!(whole.empty() || is_digits(whole)) || !(fraction.empty() || is_digits(fraction))) return std::nullopt;

  whole.remove_prefix(std::min(whole.find_first_not_of('0'), whole.size()));
  out += whole.empty() ? "0" : whole;
  if (point < mantissa.size()) out += fmt::format(".{}", fraction.empty() ? "0" : fraction);
  out += exponent;
  if (!is_json(out)) return std::nullopt;  // checks the exponent, and that a double can hold it
  return out;
}

}  // namespace kt
