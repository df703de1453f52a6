#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kt {

// Code points that a character may be, as ranges in ascending order; never surrogates, which are no characters.
class CharacterSet {
 public:
  using Range = std::pair<char32_t, char32_t>;

  CharacterSet() = default;
  explicit CharacterSet(std::vector<Range> ranges);

  CharacterSet operator~() const;
  CharacterSet operator|(const CharacterSet& other) const;
  CharacterSet operator-(const CharacterSet& other) const { return ~(~*this | other); }

  bool contains(char32_t c) const;
  bool empty() const { return ranges_.empty(); }
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

// A set of strings, from the regular expression of a JSON schema: ECMA-262's, and a string is in it when it contains a
// match. Written out as expressions of whole texts, which is what the grammar compiler reads.
class SchemaPattern {
 public:
  static constexpr size_t kUnbounded = std::numeric_limits<size_t>::max();

  // Throws std::invalid_argument for what is wrong, or cannot be held (look-ahead, back-references, ...).
  explicit SchemaPattern(std::string_view expression);

  static SchemaPattern any_of_length(size_t least, size_t most);
  static SchemaPattern all_but(const std::vector<std::string>& texts);  // UTF-8

  bool contains(std::string_view text) const;  // UTF-8

  // Leaves only strings of so many characters; false where that cannot be written as an expression.
  bool limit_length(size_t least, size_t most);

  // Can no string be in both? False also where that is not obvious.
  bool is_apart_from(const SchemaPattern& other) const;

  // The expression of such strings inside the quotes of JSON.
  std::string in_json() const;

  // The same of bare text without the characters `without`; throws std::invalid_argument where nothing is left.
  std::string bare(const CharacterSet& without) const;

  struct Node {
    enum class Is { kSet, kSequence, kChoice, kRepeat, kBegin, kEnd } is = Is::kSequence;
    CharacterSet set;
    std::vector<Node> parts;  // one of kRepeat
    size_t least = 0, most = 0;
  };

 private:
  explicit SchemaPattern(Node whole) : whole_(std::move(whole)) {}

  Node whole_;  // of whole strings: without kBegin and kEnd
};

}  // namespace kt
