#include "runtime/engine/answer_text.h"

#include <gtest/gtest.h>

#include <random>

namespace kt {
namespace {

struct Told {
  std::string text;
  std::optional<std::string> matched;
  bool operator==(const Told&) const = default;
};

// Feeds the text in pieces of the given sizes (the last is repeated).
Told feed(std::string_view text, std::vector<size_t> sizes, std::vector<std::string> stop, bool keep = false) {
  AnswerText answer(std::move(stop), keep);
  std::string out;
  for (size_t i = 0; !text.empty(); ++i) {
    const size_t size = std::min(text.size(), sizes[std::min(i, sizes.size() - 1)]);
    out += answer.push(text.substr(0, size));
    text.remove_prefix(size);
  }
  out += answer.flush();
  return {out, answer.matched()};
}

TEST(AnswerText, PassesTextOnAtOnce) {
  AnswerText answer({}, false);

  EXPECT_EQ(answer.push("Hello"), "Hello");
  EXPECT_EQ(answer.push(" world"), " world");
  EXPECT_EQ(answer.flush(), "");
}

TEST(AnswerText, KeepsPartsOfCharactersBack) {
  AnswerText answer({}, false);

  EXPECT_EQ(answer.push("a\xe4\xbd"), "a");
  EXPECT_EQ(answer.push("\xa0"), "\u4f60");
  EXPECT_EQ(answer.push("\xe4"), "");
  EXPECT_EQ(answer.flush(), "\ufffd");
}

TEST(AnswerText, HoldsBackWhatCouldBecomeAStopString) {
  AnswerText answer({"END"}, false);

  EXPECT_EQ(answer.push("abE"), "ab");
  EXPECT_EQ(answer.push("N"), "");
  EXPECT_EQ(answer.push("X"), "ENX");
  EXPECT_EQ(answer.push("EN"), "");
  EXPECT_EQ(answer.flush(), "EN");
  EXPECT_FALSE(answer.matched());
}

TEST(AnswerText, CutsBeforeTheStopStringOrAfterIt) {
  EXPECT_EQ(feed("one END two", {3}, {"END"}), (Told{"one ", "END"}));
  EXPECT_EQ(feed("one END two", {3}, {"END"}, true), (Told{"one END", "END"}));
}

TEST(AnswerText, SaysNothingAfterAMatch) {
  AnswerText answer({"X"}, false);

  EXPECT_EQ(answer.push("aXb"), "a");
  EXPECT_EQ(answer.push("c"), "");
  EXPECT_EQ(answer.flush(), "");
}

TEST(AnswerText, CountsTheStopStringThatIsCompleteFirst) {
  EXPECT_EQ(feed("xabcd", {5}, {"abcd", "bc"}), (Told{"xa", "bc"}));
  EXPECT_EQ(feed("xabc", {4}, {"bc", "abc"}), (Told{"x", "abc"}));
  EXPECT_EQ(feed("aab", {1}, {"ab"}), (Told{"a", "ab"}));
}

TEST(AnswerText, IgnoresAnEmptyStopString) { EXPECT_EQ(feed("abc", {1}, {""}), (Told{"abc", std::nullopt})); }

TEST(AnswerText, FindsAStopStringInAFlushedTail) { EXPECT_EQ(feed("a\xe4", {1}, {"\ufffd"}), (Told{"a", "\ufffd"})); }

TEST(AnswerText, DoesNotDependOnHowTokensSplitTheBytes) {
  std::mt19937 random(3);
  const auto letters = [&](size_t most) {
    std::string text;
    for (size_t n = 1 + random() % most; n > 0; --n)
      text += random() % 8 == 0 ? "\u00e9" : std::string(1, "ab"[random() % 2]);
    return text;
  };
  int matched = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::string text = letters(40);
    const std::vector<std::string> stop = {letters(5), letters(6)};
    const Told whole = feed(text, {text.size()}, stop);
    for (int split = 0; split < 3; ++split) {
      std::vector<size_t> sizes;
      for (int i = 0; i < 40; ++i) sizes.push_back(1 + random() % 4);
      ASSERT_EQ(feed(text, sizes, stop), whole) << text;
    }
    matched += whole.matched ? 1 : 0;
  }
  EXPECT_GT(matched, 500);
}

}  // namespace
}  // namespace kt
