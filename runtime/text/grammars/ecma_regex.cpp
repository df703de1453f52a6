#include "runtime/text/grammars/ecma_regex.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "runtime/text/tokens/utf8.h"

namespace kt {
namespace {

using Node = SchemaPattern::Node;
using Is = Node::Is;

constexpr size_t kMaxRepeats = 1 << 20;
constexpr int kMaxPatternDepth = 64;

const CharacterSet kDigits({{'0', '9'}});
const CharacterSet kWord({{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}});
const CharacterSet kLineEnds({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}});
const CharacterSet kSpace({{'\t', '\r'},
                           {' ', ' '},
                           {0xA0, 0xA0},
                           {0x1680, 0x1680},
                           {0x2000, 0x200A},
                           {0x2028, 0x2029},
                           {0x202F, 0x202F},
                           {0x205F, 0x205F},
                           {0x3000, 0x3000},
                           {0xFEFF, 0xFEFF}});

bool is_alphanumeric(char32_t c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

std::optional<uint32_t> hex_digit(char32_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

class Parser {
 public:
  explicit Parser(std::u32string text) : text_(std::move(text)) {}

  Node parse() {
    Node node = choice();
    if (!at_end()) fail("nothing opens this )");
    return node;
  }

 private:
  [[noreturn]] void fail(std::string_view why) const {
    throw std::invalid_argument(fmt::format("{}, at character {} of the regular expression", why, at_ + 1));
  }

  bool at_end() const { return at_ == text_.size(); }
  char32_t peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : U'\0'; }
  bool take(char32_t c) {
    if (at_end() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  Node choice() {
    if (++depth_ > kMaxPatternDepth) fail("nested too deep");
    Node choice{.is = Is::kChoice};
    do choice.parts.push_back(sequence());
    while (take('|'));
    --depth_;
    return choice.parts.size() == 1 ? std::move(choice.parts.front()) : choice;
  }

  Node sequence() {
    Node sequence{.is = Is::kSequence};
    while (!at_end() && peek() != '|' && peek() != ')') {
      Node part = atom();
      sequence.parts.push_back(quantified(std::move(part)));
    }
    return sequence;
  }

  Node atom() {
    const char32_t c = text_[at_];
    if (c == '^') return ++at_, Node{.is = Is::kBegin};
    if (c == '$') return ++at_, Node{.is = Is::kEnd};
    if (c == '(') return group();
    if (c == '*' || c == '+' || c == '?' || c == '{') fail("there is nothing to repeat");
    Node node{.is = Is::kSet};
    if (c == '[') {
      node.set = character_class();
    } else if (c == '\\') {
      node.set = escape(/*in_class=*/false).set;
    } else {
      ++at_;
      node.set = c == '.' ? ~kLineEnds : CharacterSet({{c, c}});
    }
    if (node.set.empty()) fail("no character matches");
    return node;
  }

  Node group() {
    ++at_;
    if (take('?')) {
      if (take('<')) {
        if (peek() == '=' || peek() == '!') fail("look-behind cannot be held");
        while (!at_end() && peek() != '>') ++at_;
        if (!take('>')) fail("the name of a group does not end");
      } else if (!take(':')) {
        fail(peek() == '=' || peek() == '!' ? "look-ahead cannot be held" : "flags cannot be held");
      }
    }
    Node inner = choice();
    if (!take(')')) fail("a group is not closed");
    return {.is = Is::kSequence, .parts = {std::move(inner)}};
  }

  Node quantified(Node part) {
    size_t least = 0, most = SchemaPattern::kUnbounded;
    if (take('*')) {
    } else if (take('+')) {
      least = 1;
    } else if (take('?')) {
      most = 1;
    } else if (take('{')) {
      least = most = number();
      if (take(',')) most = peek() == '}' ? SchemaPattern::kUnbounded : number();
      if (!take('}')) fail("a repeat is not closed");
      if (most < least) fail("a repeat's bounds are in the wrong order");
    } else {
      return part;
    }
    take('?');  // lazy: the same texts
    if (part.is == Is::kBegin || part.is == Is::kEnd) fail("there is nothing to repeat");
    Node repeat{.is = Is::kRepeat, .least = least, .most = most};
    repeat.parts.push_back(std::move(part));
    return repeat;
  }

  size_t number() {
    if (peek() < '0' || peek() > '9') fail("expected a number");
    size_t value = 0;
    for (; peek() >= '0' && peek() <= '9'; ++at_) value = std::min<size_t>(10 * value + (peek() - '0'), kMaxRepeats);
    return value;
  }

  struct Escaped {
    CharacterSet set;
    std::optional<char32_t> single;
  };
  static Escaped one(char32_t c) { return {CharacterSet({{c, c}}), c}; }

  CharacterSet character_class() {
    ++at_;
    const bool negated = take('^');
    CharacterSet set;
    while (!take(']')) {
      if (at_end()) fail("a [ is not closed");
      const Escaped low = class_member();
      if (peek() == '-' && peek(1) != ']' && low.single) {
        ++at_;
        if (at_end()) fail("a [ is not closed");
        const Escaped high = class_member();
        if (!high.single || *high.single < *low.single) fail("a range's bounds are in the wrong order");
        set = set | CharacterSet({{*low.single, *high.single}});
      } else {
        set = set | low.set;
      }
    }
    return negated ? ~set : set;
  }

  Escaped class_member() { return peek() == '\\' ? escape(/*in_class=*/true) : one(text_[at_++]); }

  Escaped escape(bool in_class) {
    ++at_;
    if (at_end()) fail("a \\ ends");
    const char32_t c = text_[at_++];
    switch (c) {
      case 'd': return {kDigits, std::nullopt};
      case 'D': return {~kDigits, std::nullopt};
      case 'w': return {kWord, std::nullopt};
      case 'W': return {~kWord, std::nullopt};
      case 's': return {kSpace, std::nullopt};
      case 'S': return {~kSpace, std::nullopt};
      case 't': return one('\t');
      case 'n': return one('\n');
      case 'r': return one('\r');
      case 'f': return one('\f');
      case 'v': return one('\v');
      case 'x': return one(hex(2));
      case 'u': return one(unicode());
      case 'b':
        if (in_class) return one('\b');
        [[fallthrough]];
      case 'B': fail("word boundaries cannot be held");
      case 'p':
      case 'P': fail("Unicode properties cannot be held");
      case 'k': fail("back-references cannot be held");
      case 'c':
        if ((peek() | 0x20) < 'a' || (peek() | 0x20) > 'z') fail("expected a letter after \\c");
        return one(text_[at_++] % 32);
      case '0':
        if (peek() >= '0' && peek() <= '9') fail("octal escapes cannot be held");
        return one(0);
      default: break;
    }
    if (c >= '1' && c <= '9') fail("back-references cannot be held");
    if (is_alphanumeric(c)) fail(fmt::format("\\{} means nothing", static_cast<char>(c)));
    return one(c);
  }

  char32_t hex(int digits) {
    char32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const std::optional<uint32_t> digit = at_end() ? std::nullopt : hex_digit(text_[at_]);
      if (!digit) fail("expected a hexadecimal digit");
      value = 16 * value + *digit;
      ++at_;
    }
    return value;
  }

  char32_t unicode() {
    if (take('{')) {
      char32_t value = 0;
      do value = std::min<char32_t>(16 * value + hex(1), 0x110000);
      while (!take('}'));
      if (value > 0x10FFFF) fail("no such character");
      return value;
    }
    const char32_t high = hex(4);
    if (high < 0xD800 || high > 0xDBFF || peek() != '\\' || peek(1) != 'u') return high;
    at_ += 2;
    const char32_t low = hex(4);
    if (low < 0xDC00 || low > 0xDFFF) fail("half a surrogate pair");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  const std::u32string text_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

SchemaPattern::Node parse_ecma_regex(std::string_view expression) { return Parser(characters_of(expression)).parse(); }

std::u32string characters_of(std::string_view text) {
  std::u32string out;
  while (!text.empty()) {
    const Utf8Part part = utf8_front(text);
    const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
    if (part.kind != Utf8Kind::kCharacter) {
      out += 0xFFFD;
    } else if (part.length == 1) {
      out += byte(0);
    } else {
      char32_t c = byte(0) & (0x7Fu >> part.length);
      for (size_t i = 1; i < part.length; ++i) c = (c << 6) | (byte(i) & 0x3F);
      out += c;
    }
    text.remove_prefix(part.length);
  }
  return out;
}

}  // namespace kt
