#include "runtime/text/answers/stop_automaton.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <regex>
#include <stdexcept>

namespace kt {
namespace {

using testing::HasSubstr;

struct Found {
  size_t begin, end;
  std::string what;
  bool operator==(const Found&) const = default;
};

std::optional<Found> find(const StopAutomaton& automaton, std::string_view text) {
  StopWalk walk(automaton);
  for (size_t i = 0; i < text.size(); ++i) {
    if (const auto match = walk.push(text[i])) return Found{i + 1 - match->length, i + 1, match->what};
  }
  return std::nullopt;
}

std::optional<Found> find(const std::string& pattern, std::string_view text) {
  StopAutomaton automaton;
  automaton.add_pattern(pattern);
  return find(automaton, text);
}

std::string refusal(const std::string& pattern) {
  try {
    StopAutomaton().add_pattern(pattern);
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "taken";
}

// What may still be part of a match after `text`.
std::string open(const StopAutomaton& automaton, std::string_view text) {
  StopWalk walk(automaton);
  for (const char byte : text) EXPECT_FALSE(walk.push(byte));
  return std::string(text.substr(text.size() - walk.open()));
}

TEST(StopAutomaton, FindsWhatIsCompleteFirst) {
  EXPECT_EQ(find("b+", "aabbb"), (Found{2, 3, "b+"}));
  EXPECT_EQ(find("a.*d|bc", "xabcd"), (Found{2, 4, "a.*d|bc"}));
  EXPECT_EQ(find("\\n\\n[A-Z]\\w*:", "so\n\nUser: hi"), (Found{2, 9, "\\n\\n[A-Z]\\w*:"}));
  EXPECT_EQ(find("[0-9]{3,}", "12 1234"), (Found{3, 6, "[0-9]{3,}"}));
  EXPECT_EQ(find("x", "abc"), std::nullopt);
}

TEST(StopAutomaton, OfMatchesWithOneEndTakesTheLongest) {
  EXPECT_EQ(find("bc|abc", "xabc"), (Found{1, 4, "bc|abc"}));
  StopAutomaton automaton;
  automaton.add_text("c");
  automaton.add_pattern("[ab]+c");
  EXPECT_EQ(find(automaton, "xabc"), (Found{1, 4, "[ab]+c"}));
  EXPECT_EQ(find(automaton, "xc"), (Found{1, 2, "c"}));
}

TEST(StopAutomaton, ReadsTheDialect) {
  EXPECT_TRUE(find("(?i)stop", "StOp"));
  EXPECT_TRUE(find("(?:ab)?c", "c"));
  EXPECT_TRUE(find("(?P<name>a)b*?c", "abbc"));
  EXPECT_TRUE(find("\\d\\s\\S\\W\\x41\\u00e9", "5 x-A\u00e9"));
  EXPECT_TRUE(find("\\^\\$", "^$"));
  EXPECT_TRUE(find("[^a-z]{2}", "xyAB"));
  EXPECT_EQ(find("\u4f60.", "a\u4f60\u597d"), (Found{1, 7, "\u4f60."}));
  EXPECT_FALSE(find("a.b", "a\nb"));
  EXPECT_TRUE(find("a[^x]b", "a\nb"));
}

TEST(StopAutomaton, RefusesWhatItCannotFind) {
  EXPECT_THAT(refusal("^a"), HasSubstr("anchors"));
  EXPECT_THAT(refusal("a$"), HasSubstr("anchors"));
  EXPECT_THAT(refusal("(?i)^a"), HasSubstr("anchors"));
  EXPECT_THAT(refusal("a(^b)"), HasSubstr("anchors"));
  EXPECT_THAT(refusal("\\bword"), HasSubstr("Word boundary"));
  EXPECT_THAT(refusal("a(?=b)"), HasSubstr("looking ahead"));
  EXPECT_THAT(refusal("(?<=a)b"), HasSubstr("Lookbehind"));
  EXPECT_THAT(refusal("(a)\\1"), HasSubstr("Backreference"));
  EXPECT_THAT(refusal("\\q"), HasSubstr("unknown escapes"));
  for (const char* malformed : {"(a", "a)", "a)(b", "[a", "*", "a{2,1}", "[z-a]", "\\"})
    EXPECT_NE(refusal(malformed), "taken") << malformed;
  for (const char* empty : {"", "a*", "a?|b", "(a|)", "()", "a{0}"})
    EXPECT_EQ(refusal(empty), "it matches the empty text") << empty;
  EXPECT_THAT(refusal("(.{0,30}x){0,30}y"), HasSubstr("edges"));
}

TEST(StopAutomaton, SaysWhatMayBeTheBeginOfAMatch) {
  StopAutomaton automaton;
  automaton.add_text("END");
  automaton.add_pattern("\\n+User:");
  EXPECT_EQ(open(automaton, "the E"), "E");
  EXPECT_EQ(open(automaton, "the EX"), "");
  EXPECT_EQ(open(automaton, "the\n\n\nUs"), "\n\n\nUs");
  EXPECT_EQ(open(automaton, "the\n\nUsual"), "");
  EXPECT_EQ(open(StopAutomaton(), "text"), "");
}

TEST(StopAutomaton, TakesTimeLinearInTheText) {
  StopAutomaton automaton;
  automaton.add_pattern("(a+)+b");  // exponential for whom tries every way
  automaton.add_pattern("[ac]{200}b");
  StopWalk walk(automaton);
  for (int i = 0; i < 100'000; ++i) ASSERT_FALSE(walk.push('a'));
  EXPECT_EQ(walk.open(), 100'000u);
}

// Against the standard library's expressions, tried on every part of the text.
TEST(StopAutomaton, FindsWhatTryingEverythingFinds) {
  std::mt19937 random(5);
  const auto pick = [&](std::initializer_list<const char*> of) {
    return std::string(of.begin()[random() % of.size()]);
  };
  const auto expression = [&](const auto& self, int depth) -> std::string {
    if (depth == 0) return pick({"a", "b", "c", "[ab]", "[^a]", "."});
    const std::string left = self(self, depth - 1);
    switch (random() % 5) {
      case 0: return "(" + left + "|" + self(self, depth - 1) + ")";
      case 1: return "(" + left + ")" + pick({"*", "+", "?", "{2}", "{1,3}", "{2,}"});
      case 2: return left;
      default: return left + self(self, depth - 1);
    }
  };
  int found = 0;
  for (int round = 0; round < 1000; ++round) {
    std::vector<std::string> patterns;
    StopAutomaton automaton;
    while (patterns.size() < 2) {
      const std::string pattern = expression(expression, 2);
      if (std::regex_match("", std::regex(pattern))) continue;
      automaton.add_pattern(pattern);
      patterns.push_back(pattern);
    }
    std::string text;
    for (size_t i = 0; i < 12; ++i) text += pick({"a", "b", "c"});

    std::optional<std::pair<size_t, size_t>> expected;
    for (size_t end = 1; end <= text.size() && !expected; ++end) {
      for (size_t begin = 0; begin < end && !expected; ++begin) {
        for (const std::string& pattern : patterns) {
          if (std::regex_match(text.substr(begin, end - begin), std::regex(pattern))) expected = {begin, end};
        }
      }
    }
    const auto match = find(automaton, text);
    ASSERT_EQ(match.has_value(), expected.has_value()) << patterns[0] << " " << patterns[1] << " in " << text;
    if (!match) continue;
    ASSERT_EQ(std::pair(match->begin, match->end), *expected) << patterns[0] << " " << patterns[1] << " in " << text;
    ++found;
  }
  EXPECT_GT(found, 300);
}

}  // namespace
}  // namespace kt
