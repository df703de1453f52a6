#include "runtime/text/json/python_literal.h"

#include <gtest/gtest.h>

#include <string>

namespace kt {
namespace {

std::string value_of(const std::string& right_side) {
  return assigned_string("import os\nT = " + right_side + "\nU = 'other'\n", "T").value_or("nothing");
}

TEST(PythonLiteral, ReadsEveryKindOfQuotesAndPrefix) {
  EXPECT_EQ(value_of("'a\"b'"), "a\"b");
  EXPECT_EQ(value_of("\"a'b\"  # a comment"), "a'b");
  EXPECT_EQ(value_of("\"\"\"line\n\"two\" '''\n\"\"\""), "line\n\"two\" '''\n");
  EXPECT_EQ(value_of("'''\\\n{x} {{y}}'''"), "{x} {{y}}");
  EXPECT_EQ(value_of("r'\\n\\''"), "\\n\\'");
  EXPECT_EQ(value_of("u\"\""), "");
}

TEST(PythonLiteral, ReadsEscapesAsPython) {
  EXPECT_EQ(value_of(R"('\n\t\\\'\"\x41\u4e2d\U0001f600\q')"), "\n\t\\'\"A中😀\\q");
  EXPECT_EQ(value_of("'''a\r\nb'''"), "a\nb");
}

TEST(PythonLiteral, JoinsLiteralsInParentheses) {
  EXPECT_EQ(value_of("(\n  'a'  # one\n  \"b\"\n  r'\\c'\n)"), "ab\\c");
  EXPECT_EQ(value_of("'a' 'b'"), "ab");
}

TEST(PythonLiteral, FindsTheAssignmentAtTheBeginningOfALine) {
  EXPECT_EQ(assigned_string("TT = 'no'\n T = 'no'\nT == 'no'\nT: str = 'yes'", "T"), "yes");
  EXPECT_EQ(assigned_string("x = T\n", "T"), std::nullopt);
  EXPECT_EQ(assigned_string("", "T"), std::nullopt);
}

TEST(PythonLiteral, RefusesWhatIsNoPlainString) {
  for (const char* text : {"f'a'", "b'a'", "'a' + 'b'", "'a'.strip()", "g('a')", "1", "", "('a'", "('a',)", "'a",
                           "'a\nb'", "'''a", "'\\N{DASH}'", "'\\101'", "'\\x4'", "'\\ud800'", "'a' if x else 'b'"})
    EXPECT_THROW(value_of(text), std::runtime_error) << text;
}

}  // namespace
}  // namespace kt
