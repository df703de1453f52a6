#include "runtime/text/grammars/schema_pattern.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace kt {
namespace {

TEST(SchemaPattern, IsOfStringsThatContainAMatch) {
  EXPECT_TRUE(SchemaPattern("b").contains("abc"));
  EXPECT_TRUE(SchemaPattern("^a").contains("abc"));
  EXPECT_FALSE(SchemaPattern("^b").contains("abc"));
  EXPECT_TRUE(SchemaPattern("c$").contains("abc"));
  EXPECT_FALSE(SchemaPattern("^a|b$").contains("cbc"));
  EXPECT_TRUE(SchemaPattern("^a|b$").contains("cb"));
  EXPECT_TRUE(SchemaPattern("").contains("anything"));
  EXPECT_FALSE(SchemaPattern("^$").contains("a"));
}

TEST(SchemaPattern, ReadsWhatEcmaScriptReads) {
  struct Case {
    const char *expression, *yes, *no;
  };
  for (const Case& c : {Case{"^(?:ab)+$", "abab", "aba"}, Case{"^(?<year>[0-9]{4})$", "2024", "24"},
                        Case{"^[^a-c]$", "d", "b"}, Case{"^[\\w-]{2,}$", "a-b", "é!"}, Case{"^\\u00e9{2}?$", "éé", "é"},
                        Case{"^\\u{1F600}$", "😀", "x"}, Case{"^\\uD83D\\uDE00$", "😀", "x"}, Case{"^.$", "日", "\n"},
                        Case{"^\\S*$", "ab", "a\u00a0b"}, Case{"^[\\]\\\\]$", "]", "["}, Case{"^\\/\\.$", "/.", "/x"},
                        Case{"^(|a)b$", "b", "aab"}, Case{"^[^]$", "\n", ""}}) {
    EXPECT_TRUE(SchemaPattern(c.expression).contains(c.yes)) << c.expression;
    EXPECT_FALSE(SchemaPattern(c.expression).contains(c.no)) << c.expression;
  }
}

TEST(SchemaPattern, RefusesWhatItCannotHold) {
  for (const char* expression :
       {"(?=a)", "(?!a)", "(?<=a)b", "(?i)a", "\\bword", "\\p{L}", "(a)\\1", "\\k<a>", "a(^b)", "a{2",
        "[a",    "(a",    "a)",      "*a",    "[b-a]",   "[]",     "a**",    "\\q",    "\\u12", "{,5}"})
    EXPECT_THROW(SchemaPattern{expression}, std::invalid_argument) << expression;
}

TEST(SchemaPattern, WritesWhatStandsBetweenQuotes) {
  EXPECT_EQ(SchemaPattern("^ab?$").in_json(), "[a]([b]){0,1}");
  EXPECT_EQ(SchemaPattern("^[a\"]$").in_json(), "([a]|\\u{5c}[\\u{22}])");
  EXPECT_EQ(SchemaPattern("^\\n$").in_json(), "\\u{5c}[n]");
  EXPECT_EQ(SchemaPattern("^\\x01$").in_json(), "\\u{5c}u(0001)");
}

TEST(SchemaPattern, IsLimitedInLengthWhereOnePartRepeatsCharacters) {
  SchemaPattern word("^[A-Z][a-z]*$");
  ASSERT_TRUE(word.limit_length(2, 3));
  EXPECT_FALSE(word.contains("A"));
  EXPECT_TRUE(word.contains("Abc"));
  EXPECT_FALSE(word.contains("Abcd"));
  SchemaPattern date("^[0-9]{4}-[0-9]{2}$");
  EXPECT_TRUE(date.limit_length(1, 7));
  EXPECT_FALSE(date.limit_length(8, 9));
  EXPECT_FALSE(SchemaPattern("[A-Z]").limit_length(8, 9));
  EXPECT_FALSE(SchemaPattern("^(ab|c)*$").limit_length(0, 3));
}

TEST(SchemaPattern, LeavesOutTexts) {
  const SchemaPattern others = SchemaPattern::all_but({"a", "ab", "é"});
  for (const char* text : {"a", "ab", "é"}) EXPECT_FALSE(others.contains(text)) << text;
  for (const char* text : {"", "b", "aa", "abc", "éa", "è"}) EXPECT_TRUE(others.contains(text)) << text;
}

TEST(SchemaPattern, TellsPrefixesApart) {
  EXPECT_TRUE(SchemaPattern("^x-").is_apart_from(SchemaPattern("^y")));
  EXPECT_FALSE(SchemaPattern("^x-").is_apart_from(SchemaPattern("^x")));
  EXPECT_FALSE(SchemaPattern("^x").is_apart_from(SchemaPattern("y")));
}

}  // namespace
}  // namespace kt
