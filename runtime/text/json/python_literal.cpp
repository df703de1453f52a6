#include "runtime/text/json/python_literal.h"

#include <fmt/format.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace kt {
namespace {

constexpr std::string_view kSpaces = " \t\r";

// Reads the right side of an assignment from its beginning.
class LiteralReader {
 public:
  explicit LiteralReader(std::string_view source) : rest_(source) {}

  // One literal, or literals in parentheses, which Python joins; then the end of the line.
  std::string value() {
    const bool in_parentheses = take("(");
    std::string text;
    int literals = 0;
    for (skip(in_parentheses); starts_literal(); skip(in_parentheses), ++literals) text += literal();
    if (literals == 0 || (in_parentheses && !take(")"))) refuse();
    skip(false);
    if (!rest_.empty() && rest_[0] != '\n') refuse();
    return text;
  }

 private:
  [[noreturn]] static void refuse() { throw std::runtime_error("a string literal is expected, and nothing else"); }

  bool take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }
  char take_one() {
    if (rest_.empty()) throw std::runtime_error("a string literal does not end");
    const char c = rest_[0];
    rest_.remove_prefix(1);
    return c;
  }

  // White space and comments; the ends of lines too where they mean nothing.
  void skip(bool lines) {
    while (!rest_.empty()) {
      if (rest_[0] == '#')
        rest_.remove_prefix(std::min(rest_.find('\n'), rest_.size()));
      else if (kSpaces.find(rest_[0]) != kSpaces.npos || (lines && rest_[0] == '\n'))
        rest_.remove_prefix(1);
      else
        return;
    }
  }

  bool starts_literal() const {
    const size_t quote = rest_.find_first_not_of("rRuU");
    return quote != rest_.npos && quote <= 1 && (rest_[quote] == '"' || rest_[quote] == '\'');
  }

  std::string literal() {
    const char prefix = rest_[0];
    const bool raw = prefix == 'r' || prefix == 'R';
    if (prefix != '"' && prefix != '\'') take_one();
    std::string end(1, rest_[0]);
    if (rest_.starts_with(std::string(3, rest_[0]))) end = rest_.substr(0, 3);
    rest_.remove_prefix(end.size());
    std::string text;
    while (!take(end)) {
      const char c = take_one();
      if (c == '\r' && rest_.starts_with('\n')) continue;  // Python reads both ends of lines alike
      if (c == '\n' && end.size() == 1) throw std::runtime_error("a string literal does not end on its line");
      if (c != '\\')
        text += c;
      else if (raw)
        (text += c) += take_one();
      else
        text += escape();
    }
    return text;
  }

  // What stands after a backslash.
  std::string escape() {
    const char c = take_one();
    constexpr std::string_view kNames = "abfnrtv\\'\"", kValues = "\a\b\f\n\r\t\v\\'\"";
    if (const size_t name = kNames.find(c); name != kNames.npos) return std::string(1, kValues[name]);
    if (c == '\n') return "";
    if (c == 'x') return code_point(2);
    if (c == 'u') return code_point(4);
    if (c == 'U') return code_point(8);
    if (c == 'N' || (c >= '0' && c <= '7')) throw std::runtime_error(fmt::format("the escape \\{} is not read", c));
    return {'\\', c};
  }

  std::string code_point(size_t digits) {
    uint32_t value = 0;
    const std::string_view text = rest_.substr(0, digits);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (text.size() != digits || error != std::errc() || end != text.data() + digits || !U_IS_UNICODE_CHAR(value))
      throw std::runtime_error("an escape that is no character");
    rest_.remove_prefix(digits);
    char bytes[U8_MAX_LENGTH];
    int32_t length = 0;
    U8_APPEND_UNSAFE(bytes, length, value);
    return {bytes, static_cast<size_t>(length)};
  }

  std::string_view rest_;
};

// What follows "name =" or "name: type =" on this line and after; nothing when the line is no such assignment.
std::optional<std::string_view> right_side(std::string_view line_and_rest, std::string_view name) {
  if (!line_and_rest.starts_with(name)) return std::nullopt;
  const std::string_view rest = line_and_rest.substr(name.size());
  const size_t first = rest.find_first_not_of(kSpaces);
  if (first == rest.npos || (rest[first] != '=' && rest[first] != ':')) return std::nullopt;
  const size_t equals = rest.find_first_of("=\n", first);
  if (equals == rest.npos || rest[equals] != '=' || rest.substr(equals + 1).starts_with('=')) return std::nullopt;
  const std::string_view value = rest.substr(equals + 1);
  return value.substr(std::min(value.find_first_not_of(kSpaces), value.size()));
}

}  // namespace

std::optional<std::string> assigned_string(std::string_view python_source, std::string_view name) {
  for (size_t line = 0; line < python_source.size();) {
    if (const auto value = right_side(python_source.substr(line), name)) return LiteralReader(*value).value();
    const size_t end = python_source.find('\n', line);
    if (end == python_source.npos) break;
    line = end + 1;
  }
  return std::nullopt;
}

}  // namespace kt
