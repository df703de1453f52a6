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

StopAutomaton at(const std::vector<std::string>& texts, const std::vector<std::string>& patterns = {}) {
  StopAutomaton stops;
  for (const std::string& pattern : patterns) stops.add_pattern(pattern);
  for (const std::string& text : texts) stops.add_text(text);
  return stops;
}

// Feeds the text in pieces of the given sizes (the last is repeated).
Told feed(std::string_view text, std::vector<size_t> sizes, const StopAutomaton& stops, bool keep = false,
          const ReasoningParser* reasoning = nullptr) {
  AnswerText answer(stops, keep, reasoning);
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
  AnswerText answer(at({"END"}), false);

  EXPECT_EQ(answer.push("abE"), "ab");
  EXPECT_EQ(answer.push("N"), "");
  EXPECT_EQ(answer.push("X"), "ENX");
  EXPECT_EQ(answer.push("EN"), "");
  EXPECT_EQ(answer.flush(), "EN");
  EXPECT_FALSE(answer.matched());
}

TEST(AnswerText, CutsBeforeTheStopStringOrAfterIt) {
  EXPECT_EQ(feed("one END two", {3}, at({"END"})), (Told{"one ", "END"}));
  EXPECT_EQ(feed("one END two", {3}, at({"END"}), true), (Told{"one END", "END"}));
}

TEST(AnswerText, CutsWhereAPatternMatches) {
  const StopAutomaton stops = at({}, {"\\n+[A-Z]\\w*:"});
  EXPECT_EQ(feed("one\n\nUser: two", {3}, stops), (Told{"one", "\\n+[A-Z]\\w*:"}));
  EXPECT_EQ(feed("one\n\nUser: two", {3}, stops, true), (Told{"one\n\nUser:", "\\n+[A-Z]\\w*:"}));
  EXPECT_EQ(feed("one\n\nUser", {3}, stops), (Told{"one\n\nUser", std::nullopt}));

  AnswerText answer(stops, false);
  EXPECT_EQ(answer.push("one\n"), "one");
  EXPECT_EQ(answer.push("Us"), "");
  EXPECT_EQ(answer.push("ual x"), "\nUsual x");
}

TEST(AnswerText, SaysNothingAfterAMatch) {
  AnswerText answer(at({"X"}), false);

  EXPECT_EQ(answer.push("aXb"), "a");
  EXPECT_EQ(answer.push("c"), "");
  EXPECT_EQ(answer.flush(), "");
}

TEST(AnswerText, CountsTheStopStringThatIsCompleteFirst) {
  EXPECT_EQ(feed("xabcd", {5}, at({"abcd", "bc"})), (Told{"xa", "bc"}));
  EXPECT_EQ(feed("xabc", {4}, at({"bc", "abc"})), (Told{"x", "abc"}));
  EXPECT_EQ(feed("aab", {1}, at({"ab"})), (Told{"a", "ab"}));
}

TEST(AnswerText, IgnoresAnEmptyStopString) { EXPECT_EQ(feed("abc", {1}, at({""})), (Told{"abc", std::nullopt})); }

TEST(AnswerText, FindsAStopStringInAFlushedTail) {
  EXPECT_EQ(feed("a\xe4", {1}, at({"\ufffd"})), (Told{"a", "\ufffd"}));
}

TEST(AnswerText, StopsBehindTheReasoningOnly) {
  using Start = ReasoningParser::Start;
  const std::vector<ToolFormat::Start> calls = {{"<call>", "{"}};
  const auto told = [&](Start start, std::string_view text, size_t bytes) {
    const ReasoningParser reasoning(start, calls);
    return feed(text, {bytes}, at({"END", "<call>"}), false, &reasoning);
  };
  for (const size_t bytes : {1, 2, 5, 100}) {
    EXPECT_EQ(told(Start::kOpen, "an END </think>\n\nxEND", bytes), (Told{"an END </think>\n\nx", "END"}));
    EXPECT_EQ(told(Start::kPerhaps, " <think>END</think>xENDy", bytes), (Told{" <think>END</think>x", "END"}));
    EXPECT_EQ(told(Start::kPerhaps, " <thin END", bytes), (Told{" <thin ", "END"}));
    EXPECT_EQ(told(Start::kClosed, "xEND</think>", bytes), (Told{"x", "END"}));
    EXPECT_EQ(told(Start::kOpen, "an END </thi", bytes), (Told{"an END </thi", std::nullopt}));
    EXPECT_EQ(told(Start::kOpen, "END<call> <call>{", bytes), (Told{"END<call> ", "<call>"}))
        << "a call ends reasoning";
    EXPECT_EQ(told(Start::kOpen, "END</think>", bytes), (Told{"END</think>", std::nullopt}));
  }
}

TEST(AnswerText, PassesReasoningOnAtOnce) {
  const ReasoningParser reasoning(ReasoningParser::Start::kOpen, {});
  AnswerText answer(at({"END"}), false, &reasoning);

  EXPECT_EQ(answer.push("I thinkE"), "I thinkE");
  EXPECT_EQ(answer.push("</th"), "");
  EXPECT_EQ(answer.push("ink>E"), "</think>");
  EXPECT_EQ(answer.flush(), "E");
}

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
    const StopAutomaton stop = at({letters(5), letters(6)}, {letters(3) + "[ab]+" + letters(3)});
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
