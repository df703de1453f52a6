#include "runtime/text/json/python_json.h"

#include <fmt/format.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <unordered_map>

namespace kt {
namespace {

constexpr int kMaxJsonDepth = 200;

// repr(float): exponents from -4 to 15 are written out.
std::string float_text(double value, PythonForm form) {
  const bool json = form == PythonForm::kJson;
  if (std::isnan(value)) return json ? "NaN" : "nan";
  if (std::isinf(value)) return fmt::format("{}{}", value < 0 ? "-" : "", json ? "Infinity" : "inf");
  const double size = std::abs(value);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  char buffer[64];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value,
                                    fixed ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer, result.ptr);
  if (fixed && text.find('.') == std::string::npos) text += ".0";
  return text;
}

bool is_printable(UChar32 c) {
  constexpr uint32_t kHidden = U_GC_C_MASK | U_GC_Z_MASK;
  return c == ' ' || (U_GET_GC_MASK(c) & kHidden) == 0;
}

// repr(str)
std::string repr_text(const std::string& text) {
  const bool has_single = text.find('\'') != std::string::npos, has_double = text.find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string out(1, quote);
  const int32_t size = static_cast<int32_t>(text.size());
  for (int32_t begin = 0, end = 0; begin < size; begin = end) {
    UChar32 c = 0;
    U8_NEXT_UNSAFE(text.data(), end, c);
    if (c == quote || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (!is_printable(c)) {
      out += c < 0x100     ? fmt::format("\\x{:02x}", c)
             : c < 0x10000 ? fmt::format("\\u{:04x}", c)
                           : fmt::format("\\U{:08x}", c);
    } else {
      out.append(text, static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    }
  }
  return out + quote;
}

std::string string_text(const std::string& text, PythonForm form) {
  return form == PythonForm::kJson ? nlohmann::json(text).dump() : repr_text(text);
}

// Reads one value after the other and writes each in the form.
class Reader {
 public:
  Reader(std::string_view json, PythonForm form) : json_(json), form_(form) {}

  std::string whole_value() {
    std::string text = value(0);
    expect_end();
    return text;
  }
  std::vector<PythonMember> whole_object() {
    if (next() != '{') throw std::runtime_error("a JSON object is expected");
    std::vector<PythonMember> found = members(0, true);
    expect_end();
    return found;
  }

 private:
  // The next character that is no white space; it is not taken. 0: the end.
  char next() {
    at_ = std::min(json_.find_first_not_of(" \t\n\r", at_), json_.size());
    return at_ < json_.size() ? json_[at_] : '\0';
  }
  bool take(char c) {
    if (next() != c || at_ == json_.size()) return false;
    ++at_;
    return true;
  }
  [[noreturn]] void refuse(std::string_view expected) const {
    throw std::runtime_error(fmt::format("JSON: {} is expected at byte {}", expected, at_));
  }
  void expect_end() {
    next();
    if (at_ != json_.size()) refuse("the end");
  }

  std::string value(int depth) {
    if (depth > kMaxJsonDepth)
      throw std::runtime_error(fmt::format("JSON nested deeper than {} levels", kMaxJsonDepth));
    switch (next()) {
      case '{': return object_text(members(depth, false));
      case '[': return list(depth);
      case '"': return string_text(string(), form_);
      default: return word_or_number();
    }
  }

  std::string object_text(const std::vector<PythonMember>& members) {
    std::string out = "{";
    for (const PythonMember& member : members)
      out += fmt::format("{}{}: {}", out.size() > 1 ? ", " : "", string_text(member.name, form_), member.value);
    return out + "}";
  }

  std::vector<PythonMember> members(int depth, bool plain_strings) {
    std::vector<PythonMember> found;
    std::unordered_map<std::string, size_t> place_of;
    ++at_;  // {
    if (take('}')) return found;
    do {
      if (next() != '"') refuse("a name in quotes");
      std::string name = string();
      if (!take(':')) refuse("a colon");
      const bool is_string = next() == '"';
      std::string text = is_string && plain_strings ? string() : value(depth + 1);
      const auto [entry, is_new] = place_of.try_emplace(name, found.size());
      if (is_new) found.emplace_back();
      found[entry->second] = {std::move(name), std::move(text), is_string};
    } while (take(','));
    if (!take('}')) refuse("a comma or }");
    return found;
  }

  std::string list(int depth) {
    std::string out = "[";
    ++at_;
    if (take(']')) return "[]";
    do out += (out.size() > 1 ? ", " : "") + value(depth + 1);
    while (take(','));
    if (!take(']')) refuse("a comma or ]");
    return out + "]";
  }

  std::string string() {
    const size_t begin = at_++;
    while (at_ < json_.size() && json_[at_] != '"') at_ += json_[at_] == '\\' ? 2 : 1;
    if (at_ >= json_.size()) refuse("the end of a string");
    ++at_;
    const auto text = nlohmann::json::parse(json_.substr(begin, at_ - begin), nullptr, false);
    if (!text.is_string()) {
      at_ = begin;
      refuse("a string of valid characters and escapes");
    }
    return text.get<std::string>();
  }

  std::string word_or_number() {
    struct Word {
      std::string_view json, repr;
    };
    constexpr Word kWords[] = {{"null", "None"}, {"true", "True"},    {"false", "False"},
                               {"NaN", "nan"},   {"Infinity", "inf"}, {"-Infinity", "-inf"}};
    for (const Word& word : kWords) {
      if (!json_.substr(at_).starts_with(word.json)) continue;
      at_ += word.json.size();
      return std::string(form_ == PythonForm::kJson ? word.json : word.repr);
    }
    return number();
  }

  size_t skip_digits() {
    const size_t begin = at_;
    while (at_ < json_.size() && json_[at_] >= '0' && json_[at_] <= '9') ++at_;
    return at_ - begin;
  }

  std::string number() {
    const size_t begin = at_;
    if (json_.substr(at_).starts_with('-')) ++at_;
    const size_t first_digit = at_, digits = skip_digits();
    if (digits == 0 || (digits > 1 && json_[first_digit] == '0')) {
      at_ = begin;
      refuse("a value");
    }
    bool is_float = false;
    if (json_.substr(at_).starts_with('.')) {
      is_float = true;
      ++at_;
      if (skip_digits() == 0) refuse("a digit");
    }
    if (at_ < json_.size() && (json_[at_] == 'e' || json_[at_] == 'E')) {
      is_float = true;
      ++at_;
      if (at_ < json_.size() && (json_[at_] == '+' || json_[at_] == '-')) ++at_;
      if (skip_digits() == 0) refuse("a digit");
    }
    const std::string text(json_.substr(begin, at_ - begin));
    if (!is_float) return text == "-0" ? "0" : text;
    return float_text(std::strtod(text.c_str(), nullptr), form_);
  }

  std::string_view json_;
  PythonForm form_;
  size_t at_ = 0;
};

}  // namespace

std::string python_text(std::string_view json, PythonForm form) { return Reader(json, form).whole_value(); }

std::vector<PythonMember> python_members(std::string_view json) {
  return Reader(json, PythonForm::kJson).whole_object();
}

}  // namespace kt
