#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/model/step.h"
#include "runtime/text/tokenizer.h"

namespace kt::testing {

// Ids below 256 are single bytes; those from 256 on are special tokens "<256>", "<257>", ...
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr int32_t kSize = 260;

  ByteTokenizer() {
    for (int32_t id = 0; id < 256; ++id) bytes_.emplace_back(1, static_cast<char>(id));
    for (int32_t id = 256; id < kSize; ++id) bytes_.push_back("<" + std::to_string(id) + ">");
  }

  std::vector<int32_t> encode(std::string_view text, EncodeOptions) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string_view bytes(int32_t id) const override { return bytes_.at(static_cast<size_t>(id)); }
  bool is_special(int32_t id) const override { return id >= 256; }
  std::optional<int32_t> find(std::string_view) const override { return std::nullopt; }
  int32_t size() const override { return kSize; }

 private:
  std::vector<std::string> bytes_;
};

// A language model on integers with a paged memory: the next token is a function of all tokens so far, which it reads
// back from its pages. A plan that shares a page, skips a position or forgets a reset thus gives a wrong answer, and
// what can be checked at once is.
class PagedFakeModel final : public StepRunner {
 public:
  using Next = std::function<int32_t(std::span<const int32_t> tokens)>;

  PagedFakeModel(int blocks, int vocab, Next next)
      : pages_(static_cast<size_t>(blocks) * kBlockTokens, -1), vocab_(vocab), next_(std::move(next)) {}

  int vocab() const override { return vocab_; }

  std::span<const float> run(const StepPlan& plan) override {
    if (before_step) before_step(plan);
    decode_step_plan(encode(plan));  // throws on inconsistency
    std::set<int32_t> blocks, slots;
    logits_.clear();
    size_t token = 0;
    for (size_t i = 0; i < plan.slices.size(); ++i) {
      const SeqSlice& s = plan.slices[i];
      if (!slots.insert(s.slot).second) throw std::logic_error("a slot is in the step twice");
      const auto begin = plan.blocks.begin() + plan.block_begin[i], end = plan.blocks.begin() + plan.block_begin[i + 1];
      for (auto b = begin; b != end; ++b) {
        if (!blocks.insert(*b).second) throw std::logic_error("a block is in the step twice");
      }
      run_slice(s, {plan.tokens.begin() + static_cast<long>(token), static_cast<size_t>(s.count)}, {begin, end});
      token += static_cast<size_t>(s.count);
    }
    ++steps;
    return logits_;
  }

  std::function<void(const StepPlan&)> before_step;  // may throw
  std::atomic<int> steps{0};

 private:
  void run_slice(const SeqSlice& s, std::span<const int32_t> tokens, std::span<const int32_t> blocks) {
    int& length = length_of_slot_[s.slot];
    if (s.first == 0) length = 0;
    if (length != s.first) throw std::logic_error("a slice does not go on where its slot stands");
    std::vector<int32_t> all;
    for (int p = 0; p < s.first; ++p) all.push_back(cell(blocks, p));
    for (int i = 0; i < s.count; ++i) {
      cell(blocks, s.first + i) = tokens[static_cast<size_t>(i)];
      all.push_back(tokens[static_cast<size_t>(i)]);
      if (i >= s.logits_from) push_logits(next_(all));
    }
    length = s.first + s.count;
  }

  int32_t& cell(std::span<const int32_t> blocks, int position) {
    const int block = blocks[static_cast<size_t>(position / kBlockTokens)];
    return pages_.at(static_cast<size_t>(block * kBlockTokens + position % kBlockTokens));
  }

  void push_logits(int32_t best) {
    logits_.resize(logits_.size() + static_cast<size_t>(vocab_), 0.0f);
    float* row = logits_.data() + logits_.size() - vocab_;
    if (best >= 0) {
      row[best] = 10.0f;
    } else {
      row[0] = std::numeric_limits<float>::quiet_NaN();
    }
  }

  std::vector<int32_t> pages_;
  std::map<int32_t, int> length_of_slot_;
  int vocab_;
  Next next_;
  std::vector<float> logits_;
};

// A letter that depends on every token before it.
inline int32_t letter_after(std::span<const int32_t> tokens) {
  uint32_t hash = 2166136261u;
  for (const int32_t t : tokens) hash = (hash ^ static_cast<uint32_t>(t)) * 16777619u;
  return static_cast<int32_t>('a' + hash % 26);
}

}  // namespace kt::testing
