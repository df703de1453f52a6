#include "runtime/text/tokens/pretokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace kt {
namespace {

// GPT-2's pattern, built into ByteLevel(use_regex=true).
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

SplitBehavior behavior_of(const JsonField& field) {
  const std::string_view name = field.text();
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  field.refuse("unknown behavior");
}

Regex pattern_of(const JsonField& field) {
  field.only_keys({"Regex", "String"});
  try {
    if (const auto regex = field.find("Regex")) return Regex(regex->text());
    return Regex::literal(field.at("String").text());
  } catch (const std::invalid_argument& error) {
    field.refuse(error.what());
  }
}

struct Part {
  std::string_view text;
  bool is_match;
};

size_t after_char(std::string_view text, size_t at) {
  do ++at;
  while (at < text.size() && (text[at] & 0xC0) == 0x80);
  return at;
}

// Matches and the gaps between them, in order; together they are the piece. A pattern may match nothing between two
// characters, which cuts there, but not where the match before has just ended.
std::vector<Part> parts_of(std::string_view piece, const SplitStep& step, Regex::Scratch& scratch) {
  std::vector<Part> parts;
  const auto add = [&](size_t begin, size_t end, bool is_match) {
    parts.push_back({piece.substr(begin, end - begin), is_match != step.invert});
  };
  size_t done = 0;
  for (size_t from = 0; from <= piece.size();) {
    const auto match = step.pattern.find(piece, from, scratch);
    if (!match) break;
    if (match->begin == match->end && match->end == done && !parts.empty()) {
      from = after_char(piece, from);
      continue;
    }
    if (match->begin > done) add(done, match->begin, false);
    add(match->begin, match->end, true);
    done = from = match->end;
  }
  if (done < piece.size()) add(done, piece.size(), false);
  return parts;
}

// Whether `next` continues the piece that ended with `previous`. Neighbours in `parts_of` touch in memory.
bool joins(const Part& previous, const Part& next, SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::kContiguous: return previous.is_match == next.is_match;
    case SplitBehavior::kMergedWithPrevious: return next.is_match && !previous.is_match;
    case SplitBehavior::kMergedWithNext: return previous.is_match && !next.is_match;
    case SplitBehavior::kIsolated:
    case SplitBehavior::kRemoved: return false;
  }
  return false;
}

void cut(std::string_view piece, const SplitStep& step, Regex::Scratch& scratch, std::vector<std::string_view>& out) {
  const std::vector<Part> parts = parts_of(piece, step, scratch);
  const size_t before = out.size();
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    if (step.behavior == SplitBehavior::kRemoved && part.is_match) continue;
    if (i > 0 && joins(parts[i - 1], part, step.behavior))
      out.back() = {out.back().data(), out.back().size() + part.text.size()};
    else
      out.push_back(part.text);
  }
  const auto is_empty = [](std::string_view text) { return text.empty(); };
  out.erase(std::remove_if(out.begin() + static_cast<ptrdiff_t>(before), out.end(), is_empty), out.end());
}

void cut_all(const std::vector<SplitStep>& steps, std::vector<std::string_view>& pieces) {
  Regex::Scratch scratch = Regex::scratch();
  for (const SplitStep& step : steps) {
    std::vector<std::string_view> smaller;
    smaller.reserve(pieces.size() * 2);
    for (const std::string_view piece : pieces) cut(piece, step, scratch, smaller);
    pieces = std::move(smaller);
  }
}

void prefix_spaces(std::string& buffer, std::vector<std::string_view>& pieces) {
  buffer.clear();
  std::vector<size_t> ends;
  for (const std::string_view piece : pieces) {
    if (!piece.starts_with(' ')) buffer += ' ';
    buffer += piece;
    ends.push_back(buffer.size());
  }
  for (size_t i = 0, begin = 0; i < pieces.size(); begin = ends[i++])
    pieces[i] = std::string_view(buffer).substr(begin, ends[i] - begin);
}

}  // namespace

PreTokenizer::PreTokenizer(const JsonField& pre_tokenizer) {
  add_steps(pre_tokenizer);
  if (!has_byte_level_) pre_tokenizer.refuse("only byte-level vocabularies are read: the last step must be ByteLevel");
}

void PreTokenizer::add_steps(const JsonField& step) {
  const JsonField type = step.at("type");
  if (has_byte_level_) step.refuse("a step after ByteLevel");
  if (type.text() == "Sequence") {
    step.only_keys({"type", "pretokenizers"});
    for (const JsonField& inner : step.at("pretokenizers").items()) add_steps(inner);
  } else if (type.text() == "Split") {
    add_split(step);
  } else if (type.text() == "Digits") {
    step.only_keys({"type", "individual_digits"});
    steps_.push_back({.pattern = Regex(step.flag("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)")});
  } else if (type.text() == "ByteLevel") {
    add_byte_level(step);
  } else {
    type.refuse("unknown pre-tokenizer");
  }
}

void PreTokenizer::add_split(const JsonField& step) {
  step.only_keys({"type", "pattern", "behavior", "invert"});
  steps_.push_back({.pattern = pattern_of(step.at("pattern")),
                    .behavior = behavior_of(step.at("behavior")),
                    .invert = step.flag("invert", false)});
}

// trim_offsets concerns offsets, which are not computed.
void PreTokenizer::add_byte_level(const JsonField& step) {
  step.only_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  has_byte_level_ = true;
  prefix_space_ = step.at("add_prefix_space").flag();
  if (step.flag("use_regex", true))
    (prefix_space_ ? prefixed_steps_ : steps_).push_back({.pattern = Regex(kByteLevelPattern)});
}

void PreTokenizer::split(std::string_view text, std::string& buffer, std::vector<std::string_view>& pieces) const {
  pieces.assign(text.empty() ? 0 : 1, text);
  cut_all(steps_, pieces);
  if (!prefix_space_) return;
  prefix_spaces(buffer, pieces);
  cut_all(prefixed_steps_, pieces);
}

}  // namespace kt
