#include "runtime/text/tokens/regex.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace kt {
namespace {

std::string matched(const Regex& regex, std::string_view text) {
  auto scratch = Regex::scratch();
  const auto match = regex.find(text, 0, scratch);
  return match ? std::string(text.substr(match->begin, match->end - match->begin)) : "(none)";
}

TEST(Regex, RewritesIntersectionsOfClasses) {
  EXPECT_EQ(pcre_from_oniguruma(R"([\p{Lo}a-c&&[^\p{Han}]]+x)"), R"((?:(?=[^\p{Han}])[\p{Lo}a-c])+x)");
  EXPECT_EQ(pcre_from_oniguruma("[[ab]&&b]"), "(?:(?=[b])[ab])");
  EXPECT_EQ(matched(Regex(R"([\p{L}&&[^\p{Han}]]+)"), "中かな中"), "かな");
}

TEST(Regex, LeavesTheRestAsItIs) {
  for (const char* pattern : {R"((?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\p{L}]+[\r\n]*)", "[]a]", "[^]a]",
                              R"([\[\]\\])", "[[:alpha:]]", "a{1,3}b{2}{x", R"(\p{N}{1,3})", "a(?=b)(?!c)(?<=d)"})
    EXPECT_EQ(pcre_from_oniguruma(pattern), pattern);
}

TEST(Regex, RefusesWhatMeansSomethingElseToOniguruma) {
  for (const char* pattern : {R"(\h)", R"(\w)", R"(\bx)", R"([\w])", "[a[b]]", "[[a]b]", "[^a&&b]", "a{1,3}+", "(?m:.)",
                              "[a", "a\\", "[&&]", "(", "\\p{Nonsense}"})
    EXPECT_THROW(Regex{pattern}, std::invalid_argument) << pattern;
}

TEST(Regex, WhiteSpaceIsUnicodes) {
  for (const char* space : {" ", "\t", "\v", "\u0085", "\u00a0", "\u2003", "\u2028", "\u3000"})
    EXPECT_EQ(matched(Regex(R"(\s)"), space), space);
  EXPECT_EQ(matched(Regex(R"(\s)"), "\u180e"), "(none)");
  EXPECT_EQ(matched(Regex(R"([^\S\n]+)"), "\n \t\n"), " \t");
}

TEST(Regex, IgnoresCaseAsUnicodeDoes) { EXPECT_EQ(matched(Regex("(?i:'s)"), "'ſ"), "'ſ"); }

TEST(Regex, LiteralsAreQuoted) { EXPECT_EQ(matched(Regex::literal("a.[é]{2}\\"), "aXa.[é]{2}\\"), "a.[é]{2}\\"); }

TEST(Regex, LongRunsNeedNoStack) {
  const std::string text = std::string(3'000'000, 'a') + "b";

  EXPECT_EQ(matched(Regex("(?:a|x)*b"), text).size(), text.size());
  EXPECT_EQ(matched(Regex(R"(\s*[\r\n]+|\s+(?!\S)|\s+)"), std::string(3'000'000, ' ')).size(), 3'000'000u);
}

}  // namespace
}  // namespace kt
