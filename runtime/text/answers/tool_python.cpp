// Python's literals, which models write for JSON now and then.

#include <fmt/format.h>

#include <cctype>
#include <cstdint>

#include "runtime/text/answers/tool_scan.h"
#include "runtime/text/answers/tool_values.h"

namespace kt {
namespace {

constexpr int kMaxLiteralDepth = 64;

void append_utf8(uint32_t code, std::string& out) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  }
}

// Recursive descent; each reader leaves `rest_` behind what it read and writes JSON to `out_`.
class PythonReader {
 public:
  explicit PythonReader(std::string_view text) : rest_(text) {}

  std::optional<std::string> read() {
    if (!value(0)) return std::nullopt;
    skip_white_space();
    if (!rest_.empty()) return std::nullopt;
    return std::move(out_);
  }

 private:
  bool value(int depth) {
    skip_white_space();
    if (rest_.empty() || depth > kMaxLiteralDepth) return false;
    switch (rest_.front()) {
      case '{': return items('}', '{', '}', depth);
      case '[': return items(']', '[', ']', depth);
      case '(': return items(')', '[', ']', depth);
      case '\'':
      case '"': return string();
      default: return word();
    }
  }

  // A list, tuple or dict up to `close`; a comma may stand behind the last item.
  bool items(char close, char json_open, char json_close, int depth) {
    rest_.remove_prefix(1);
    out_ += json_open;
    for (bool first = true;; first = false) {
      skip_white_space();
      if (take(close)) break;
      if (!first) out_ += ", ";
      if (close == '}' && !key()) return false;
      if (!value(depth + 1)) return false;
      skip_white_space();
      if (take(close)) break;
      if (!take(',')) return false;
    }
    out_ += json_close;
    return true;
  }

  bool key() {
    if (rest_.empty() || (rest_.front() != '\'' && rest_.front() != '"') || !string()) return false;
    skip_white_space();
    out_ += ": ";
    return take(':');
  }

  bool string() {
    const char quote = rest_.front();
    rest_.remove_prefix(1);
    std::string text;
    while (!rest_.empty() && rest_.front() != quote) {
      if (rest_.front() == '\n') return false;
      if (rest_.front() == '\\') {
        if (!escape(text)) return false;
      } else {
        text += rest_.front();
        rest_.remove_prefix(1);
      }
    }
    out_ += json_quoted(text);
    return take(quote);
  }

  bool escape(std::string& text) {
    if (rest_.size() < 2) return false;
    const char c = rest_[1];
    rest_.remove_prefix(2);
    switch (c) {
      case '\n': return true;
      case 'n': text += '\n'; return true;
      case 't': text += '\t'; return true;
      case 'r': text += '\r'; return true;
      case 'b': text += '\b'; return true;
      case 'f': text += '\f'; return true;
      case '\\':
      case '\'':
      case '"': text += c; return true;
      case 'x': return code_point(2, text);
      case 'u': return code_point(4, text);
      case 'U': return code_point(8, text);
      default: text += {'\\', c}; return true;  // as Python has it
    }
  }

  bool code_point(size_t digits, std::string& text) {
    if (rest_.size() < digits) return false;
    uint32_t code = 0;
    for (const char c : rest_.substr(0, digits)) {
      if (!std::isxdigit(static_cast<unsigned char>(c))) return false;
      code = code * 16 + static_cast<uint32_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    rest_.remove_prefix(digits);
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
    append_utf8(code, text);
    return true;
  }

  // A number or a name; JSON's names are taken too, as models mix them.
  bool word() {
    const std::string_view text = rest_.substr(0, rest_.find_first_of(" \t\r\n,:]})"));
    rest_.remove_prefix(text.size());
    if (text == "True" || text == "true")
      out_ += "true";
    else if (text == "False" || text == "false")
      out_ += "false";
    else if (text == "None" || text == "null")
      out_ += "null";
    else if (const auto number = json_number(text))
      out_ += *number;
    else
      return false;
    return true;
  }

  void skip_white_space() { rest_.remove_prefix(leading_white_space(rest_)); }
  bool take(char c) {
    if (!rest_.starts_with(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }

  std::string_view rest_;
  std::string out_;
};

}  // namespace

std::optional<std::string> json_of_python(std::string_view text) { return PythonReader(text).read(); }

}  // namespace kt
