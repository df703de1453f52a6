#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/json/json_field.h"
#include "runtime/text/tokens/regex.h"

namespace kt {

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Cuts pieces further: where `pattern` matches (or, inverted, where it does not), matches and gaps are joined as
// `behavior` says.
struct SplitStep {
  Regex pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
};

// The pre_tokenizer of a tokenizer.json: each step cuts the pieces that the step before has made; the last one is
// ByteLevel, whose alphabet is not applied here (the vocabulary is turned into bytes instead).
class PreTokenizer {
 public:
  // Throws Error(kExitModel) for a step that is not understood.
  explicit PreTokenizer(const JsonField& pre_tokenizer);

  // text: valid UTF-8. The pieces, none of them empty, point into text or into buffer.
  void split(std::string_view text, std::string& buffer, std::vector<std::string_view>& pieces) const;

 private:
  void add_steps(const JsonField& step);
  void add_split(const JsonField& step);
  void add_byte_level(const JsonField& step);

  std::vector<SplitStep> steps_;
  bool has_byte_level_ = false;
  bool prefix_space_ = false;              // ByteLevel: a piece that does not begin with a space gets one ...
  std::vector<SplitStep> prefixed_steps_;  // ... before ByteLevel's own pattern cuts it
};

}  // namespace kt
