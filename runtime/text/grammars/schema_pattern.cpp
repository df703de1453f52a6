#include "runtime/text/grammars/schema_pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>

#include "runtime/text/grammars/ecma_regex.h"

namespace kt {
namespace {

using Node = SchemaPattern::Node;
using Is = Node::Is;

constexpr size_t kUnbounded = SchemaPattern::kUnbounded;
constexpr char32_t kLastCharacter = 0x10FFFF;

Node set_node(CharacterSet set) { return {.is = Is::kSet, .set = std::move(set)}; }
Node repeat(Node part, size_t least, size_t most) {
  Node node{.is = Is::kRepeat, .least = least, .most = most};
  node.parts.push_back(std::move(part));
  return node;
}
Node any_text() { return repeat(set_node(~CharacterSet()), 0, kUnbounded); }

size_t times(size_t a, size_t b) {
  if (a == 0 || b == 0) return 0;
  return a > kUnbounded / b ? kUnbounded : a * b;
}
size_t plus(size_t a, size_t b) { return a > kUnbounded - b ? kUnbounded : a + b; }

struct Lengths {
  size_t least, most;
};

Lengths lengths(const Node& node) {
  switch (node.is) {
    case Is::kSet: return {1, 1};
    case Is::kRepeat: {
      const Lengths part = lengths(node.parts.front());
      return {times(part.least, node.least), times(part.most, node.most)};
    }
    case Is::kChoice: {
      Lengths all{kUnbounded, 0};
      for (const Node& part : node.parts) {
        const Lengths one = lengths(part);
        all = {std::min(all.least, one.least), std::max(all.most, one.most)};
      }
      return all;
    }
    default: {
      Lengths all{0, 0};
      for (const Node& part : node.parts) {
        const Lengths one = lengths(part);
        all = {plus(all.least, one.least), plus(all.most, one.most)};
      }
      return all;
    }
  }
}

// Anchors.

bool has_anchors(const Node& node) {
  return node.is == Is::kBegin || node.is == Is::kEnd || std::any_of(node.parts.begin(), node.parts.end(), has_anchors);
}

// The alternatives of the whole expression, each a sequence.
void add_alternatives(const Node& node, std::vector<Node>& out) {
  if (node.is == Is::kSequence && node.parts.size() == 1) return add_alternatives(node.parts.front(), out);
  if (node.is == Is::kChoice) {
    for (const Node& part : node.parts) add_alternatives(part, out);
  } else if (node.is == Is::kSequence) {
    out.push_back(node);
  } else {
    out.push_back({.is = Is::kSequence, .parts = {node}});
  }
}

// Of the strings that contain a match, instead of the matches.
Node whole(const Node& match) {
  std::vector<Node> alternatives;
  add_alternatives(match, alternatives);
  for (Node& sequence : alternatives) {
    std::vector<Node>& parts = sequence.parts;
    bool from_start = false, to_end = false;
    for (; !parts.empty() && parts.front().is == Is::kBegin; from_start = true) parts.erase(parts.begin());
    for (; !parts.empty() && parts.back().is == Is::kEnd; to_end = true) parts.pop_back();
    if (has_anchors(sequence)) throw std::invalid_argument("^ and $ can be held only at the ends");
    if (!from_start) parts.insert(parts.begin(), any_text());
    if (!to_end) parts.push_back(any_text());
  }
  if (alternatives.size() == 1) return std::move(alternatives.front());
  return {.is = Is::kChoice, .parts = std::move(alternatives)};
}

// Matching: places in the text where a match of the node ends that begins at one of `from`.

using Places = std::set<size_t>;

Places match(const Node& node, std::u32string_view text, const Places& from) {
  Places ends;
  switch (node.is) {
    case Is::kSet:
      for (const size_t at : from) {
        if (at < text.size() && node.set.contains(text[at])) ends.insert(at + 1);
      }
      break;
    case Is::kChoice:
      for (const Node& part : node.parts) ends.merge(match(part, text, from));
      break;
    case Is::kRepeat: {
      Places now = from;
      for (size_t count = 0;; ++count) {
        if (count >= node.least) {
          const size_t before = ends.size();
          ends.insert(now.begin(), now.end());
          if (ends.size() == before) break;
        }
        if (count == node.most) break;
        now = match(node.parts.front(), text, now);
        if (now.empty()) break;
      }
      break;
    }
    default:
      ends = from;
      for (const Node& part : node.parts) ends = match(part, text, ends);
  }
  return ends;
}

// Writing.

using WriteSet = std::function<std::string(const CharacterSet&)>;

std::string written_character(char32_t c) {
  const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return plain ? std::string(1, static_cast<char>(c)) : fmt::format("\\u{{{:x}}}", static_cast<uint32_t>(c));
}

std::string written_class(const CharacterSet& set) {
  std::string out = "[";
  for (const auto& [low, high] : set.ranges()) {
    out += written_character(low);
    if (high > low) out += '-' + written_character(high);
  }
  return out + ']';
}

std::string written(const Node& node, const WriteSet& write_set) {
  switch (node.is) {
    case Is::kSet: return write_set(node.set);
    case Is::kRepeat: {
      const std::string bounds = node.most == kUnbounded   ? fmt::format("{{{},}}", node.least)
                                 : node.most == node.least ? fmt::format("{{{}}}", node.least)
                                                           : fmt::format("{{{},{}}}", node.least, node.most);
      if (node.most == 0) return "()";
      return '(' + written(node.parts.front(), write_set) + ')' + bounds;
    }
    case Is::kChoice: {
      std::string out = "(";
      for (size_t i = 0; i < node.parts.size(); ++i) out += (i > 0 ? "|" : "") + written(node.parts[i], write_set);
      return out + ')';
    }
    default: {
      std::string out;
      for (const Node& part : node.parts) out += written(part, write_set);
      return out.empty() ? "()" : out;
    }
  }
}

// A character of the set inside the quotes of JSON: itself, or its escape if it needs one. Of the control characters
// without a short escape only those that stand alone: every further form is a state more for each character.
std::string set_in_json(const CharacterSet& set) {
  static constexpr std::pair<char32_t, std::string_view> kEscapes[] = {
      {'"', "\\u{22}"}, {'\\', "\\u{5c}"}, {'\b', "b"}, {'\f', "f"}, {'\n', "n"}, {'\r', "r"}, {'\t', "t"}};
  const CharacterSet bare = set - CharacterSet({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}});
  std::string escapes;
  for (const auto& [c, letter] : kEscapes) {
    if (set.contains(c)) escapes += letter;
  }
  if (escapes.empty() && !bare.empty()) return written_class(bare);
  if (!escapes.empty()) {
    const std::string escaped = fmt::format("\\u{{5c}}[{}]", escapes);
    return bare.empty() ? escaped : fmt::format("({}|{})", written_class(bare), escaped);
  }
  std::string controls;
  for (char32_t c = 0; c < 0x20; ++c) {
    if (set.contains(c)) controls += fmt::format("{}{:04x}", controls.empty() ? "" : "|", static_cast<uint32_t>(c));
  }
  return fmt::format("\\u{{5c}}u({})", controls);
}

// What every string of the set begins with.
std::u32string prefix_of(const Node& node) {
  std::u32string prefix;
  if (node.is != Is::kSequence) return prefix;
  for (const Node& part : node.parts) {
    if (part.is != Is::kSet || part.set.ranges().size() != 1) break;
    const auto& [low, high] = part.set.ranges().front();
    if (low != high) break;
    prefix += low;
  }
  return prefix;
}

struct Trie {
  bool is_text = false;
  std::map<char32_t, Trie> next;
};

Node all_but(const Trie& trie) {
  Node choice{.is = Is::kChoice};
  if (!trie.is_text) choice.parts.push_back({.is = Is::kSequence});
  std::vector<CharacterSet::Range> taken;
  for (const auto& [c, inner] : trie.next) taken.push_back({c, c});
  choice.parts.push_back({.is = Is::kSequence, .parts = {set_node(~CharacterSet(std::move(taken))), any_text()}});
  for (const auto& [c, inner] : trie.next)
    choice.parts.push_back({.is = Is::kSequence, .parts = {set_node(CharacterSet({{c, c}})), all_but(inner)}});
  return choice;
}

}  // namespace

CharacterSet::CharacterSet(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end());
  const auto add = [&](char32_t low, char32_t high) {
    if (low > high) return;
    if (!ranges_.empty() && low <= ranges_.back().second + 1)
      ranges_.back().second = std::max(ranges_.back().second, high);
    else
      ranges_.push_back({low, high});
  };
  for (const auto& [low, high] : ranges) {
    add(low, std::min<char32_t>(high, 0xD7FF));
    add(std::max<char32_t>(low, 0xE000), std::min(high, kLastCharacter));
  }
}

CharacterSet CharacterSet::operator~() const {
  std::vector<Range> others;
  char32_t next = 0;
  for (const auto& [low, high] : ranges_) {
    if (low > next) others.push_back({next, low - 1});
    next = high + 1;
  }
  if (next <= kLastCharacter) others.push_back({next, kLastCharacter});
  return CharacterSet(std::move(others));
}

CharacterSet CharacterSet::operator|(const CharacterSet& other) const {
  std::vector<Range> all = ranges_;
  all.insert(all.end(), other.ranges_.begin(), other.ranges_.end());
  return CharacterSet(std::move(all));
}

bool CharacterSet::contains(char32_t c) const {
  return std::any_of(ranges_.begin(), ranges_.end(), [&](const Range& r) { return r.first <= c && c <= r.second; });
}

SchemaPattern::SchemaPattern(std::string_view expression) : whole_(whole(parse_ecma_regex(expression))) {}

SchemaPattern SchemaPattern::any_of_length(size_t least, size_t most) {
  return SchemaPattern(repeat(set_node(~CharacterSet()), least, most));
}

SchemaPattern SchemaPattern::all_but(const std::vector<std::string>& texts) {
  Trie trie;
  for (const std::string& text : texts) {
    Trie* at = &trie;
    for (const char32_t c : characters_of(text)) at = &at->next[c];
    at->is_text = true;
  }
  return SchemaPattern(kt::all_but(trie));
}

bool SchemaPattern::contains(std::string_view text) const {
  const std::u32string characters = characters_of(text);
  return match(whole_, characters, {0}).contains(characters.size());
}

bool SchemaPattern::limit_length(size_t least, size_t most) {
  const Lengths now = lengths(whole_);
  if (now.least >= least && now.most <= most) return true;
  if (whole_.is != Is::kSequence && whole_.is != Is::kRepeat) return false;
  // All but one part have a fixed length, and that one repeats single characters.
  Node* loose = whole_.is == Is::kRepeat ? &whole_ : nullptr;
  size_t fixed = 0;
  if (!loose) {
    for (Node& part : whole_.parts) {
      const Lengths length = lengths(part);
      if (length.least == length.most)
        fixed = plus(fixed, length.most);
      else if (loose)
        return false;
      else
        loose = &part;
    }
  }
  if (!loose || loose->is != Is::kRepeat || loose->parts.front().is != Is::kSet || fixed > most) return false;
  loose->least = std::max(loose->least, least > fixed ? least - fixed : 0);
  loose->most = std::min(loose->most, most == kUnbounded ? kUnbounded : most - fixed);
  return loose->least <= loose->most;
}

bool SchemaPattern::is_apart_from(const SchemaPattern& other) const {
  const std::u32string a = prefix_of(whole_), b = prefix_of(other.whole_);
  return !a.starts_with(b) && !b.starts_with(a);
}

std::string SchemaPattern::in_json() const { return written(whole_, set_in_json); }

std::string SchemaPattern::bare(const CharacterSet& without) const {
  return written(whole_, [&](const CharacterSet& set) {
    const CharacterSet left = set - without;
    if (left.empty()) throw std::invalid_argument("no characters are left that it admits");
    return written_class(left);
  });
}

}  // namespace kt
