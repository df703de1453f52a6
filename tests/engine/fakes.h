#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/step/step.h"
#include "runtime/text/tokens/tokenizer.h"

namespace kt::testing {

// Ids below 256 are single bytes; those from 256 on are special tokens "<256>", "<257>", ...
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr int32_t kSize = 260;

  ByteTokenizer() {
    for (int32_t id = 0; id < 256; ++id) bytes_.emplace_back(1, static_cast<char>(id));
    for (int32_t id = 256; id < kSize; ++id) bytes_.push_back(fmt::format("<{}>", id));
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
// back from its pages. With snapshots it also has a recurrent state, which is those tokens once more. A plan that
// writes to a shared page, skips a position, forgets a reset or starts from another state thus gives a wrong answer,
// and what can be checked at once is.
class PagedFakeModel final : public StepRunner {
 public:
  using Next = std::function<int32_t(std::span<const int32_t> tokens)>;

  PagedFakeModel(int blocks, int vocab, Next next, int snapshots = -1)
      : pages_(static_cast<size_t>(blocks) * kBlockTokens, -1),
        recurrent_(snapshots >= 0),
        snapshots_(static_cast<size_t>(std::max(snapshots, 0))),
        vocab_(vocab),
        next_(std::move(next)) {}

  int vocab() const override { return vocab_; }
  int64_t progress() const override { return laps; }
  void idle() override { ++idles; }

  std::span<const float> run(const StepPlan& plan) override {
    if (before_step) before_step(plan);
    decode_step_plan(encode(plan));  // throws on inconsistency
    check_blocks(plan);
    std::set<int32_t> slots;
    for (const SeqSlice& s : plan.slices) {
      if (!slots.insert(s.slot).second) throw std::logic_error("a slot is in the step twice");
      if (s.load >= 0) states_[s.slot] = snapshots_.at(static_cast<size_t>(s.load));
      if (s.first == 0) states_[s.slot].clear();
    }
    logits_.clear();
    size_t token = 0;
    for (size_t i = 0; i < plan.slices.size(); ++i) {
      const SeqSlice& s = plan.slices[i];
      run_slice(s, {plan.tokens.begin() + static_cast<long>(token), static_cast<size_t>(s.count)},
                {plan.blocks.begin() + plan.block_begin[i], plan.blocks.begin() + plan.block_begin[i + 1]});
      token += static_cast<size_t>(s.count);
    }
    prefilled += plan.rows() > static_cast<int>(plan.slices.size()) ? plan.rows() : 0;
    ++steps;
    if (after_step) after_step(plan);
    return logits_;
  }

  std::function<void(const StepPlan&)> before_step, after_step;  // may throw
  std::atomic<int64_t> laps = 0;                                 // its progress()
  std::atomic<int> idles = 0;                                    // calls of idle()
  std::atomic<int> steps{0}, prefilled{0};  // prefilled: rows of steps that are not of decode rows only

 private:
  // A block that a slice writes is in no other; those before may be shared.
  static void check_blocks(const StepPlan& plan) {
    std::map<int32_t, int> readers;
    for (const int32_t block : plan.blocks) ++readers[block];
    for (size_t i = 0; i < plan.slices.size(); ++i) {
      for (int b = plan.block_begin[i] + plan.slices[i].first / kBlockTokens; b < plan.block_begin[i + 1]; ++b) {
        if (readers[plan.blocks[static_cast<size_t>(b)]] > 1) throw std::logic_error("a written block is shared");
      }
    }
  }

  void run_slice(const SeqSlice& s, std::span<const int32_t> tokens, std::span<const int32_t> blocks) {
    std::vector<int32_t>& state = states_[s.slot];
    std::vector<int32_t> all;
    for (int p = 0; p < s.first; ++p) all.push_back(cell(blocks, p));
    if (recurrent_ && all != state) throw std::logic_error("a slice does not go on where its state stands");
    for (int i = 0; i < s.count; ++i) {
      cell(blocks, s.first + i) = tokens[static_cast<size_t>(i)];
      all.push_back(tokens[static_cast<size_t>(i)]);
      if (s.save >= 0 && i + 1 == s.save_after) snapshots_.at(static_cast<size_t>(s.save)) = all;
      if (i >= s.logits_from) push_logits(next_(all));
    }
    state = all;
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
  const bool recurrent_;
  std::map<int32_t, std::vector<int32_t>> states_;  // by slot
  std::vector<std::vector<int32_t>> snapshots_;
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
