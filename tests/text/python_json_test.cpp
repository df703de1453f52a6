#include "runtime/text/json/python_json.h"

#include <gtest/gtest.h>

#include <string>

namespace kt {
namespace {

std::string dumps(const std::string& json) { return python_text(json, PythonForm::kJson); }
std::string repr(const std::string& json) { return python_text(json, PythonForm::kRepr); }

TEST(PythonJson, WritesWhatJsonDumpsOfLoadsWrites) {
  EXPECT_EQ(dumps(R"( {"b":[1,2 , {}],"a" : null,"é":"\u4e2d\n\u0001\u007f\/"} )"),
            "{\"b\": [1, 2, {}], \"a\": null, \"é\": \"中\\n\\u0001\x7f/\"}");
  EXPECT_EQ(dumps("[]"), "[]");
  EXPECT_EQ(dumps("[true,false]"), "[true, false]");
  EXPECT_EQ(dumps("[NaN, Infinity, -Infinity, 1e999, -1e999]"), "[NaN, Infinity, -Infinity, Infinity, -Infinity]");
}

// Made with CPython 3.11.
TEST(PythonJson, WritesNumbersAsPython) {
  EXPECT_EQ(dumps("[123456789012345678901234567890, -0, -0.0, 0.0, 2.0, 1.10]"),
            "[123456789012345678901234567890, 0, -0.0, 0.0, 2.0, 1.1]");
  EXPECT_EQ(dumps("[1e15, 1e16, 123456789012345680.0, 9007199254740993.0, 1e-4, 1e-5, 1.5e-7]"),
            "[1000000000000000.0, 1e+16, 1.2345678901234568e+17, 9007199254740992.0, 0.0001, 1e-05, 1.5e-07]");
  EXPECT_EQ(dumps("[1E400, 1e-400, 5e-324, 1.7976931348623157e308, 1e22]"),
            "[Infinity, 0.0, 5e-324, 1.7976931348623157e+308, 1e+22]");
}

TEST(PythonJson, WritesValuesAsStrDoes) {
  EXPECT_EQ(repr(R"({"a": [1.0, null, true, false, NaN, -Infinity]})"), "{'a': [1.0, None, True, False, nan, -inf]}");
  EXPECT_EQ(repr(R"(["it's", "\"", "'\"", "\\ \n\t\r\u0000\u00e9\u00a0\u200b\ud83d\ude00\ue000"])"),
            R"(["it's", '"', '\'"', '\\ \n\t\r\x00é\xa0\u200b😀\ue000'])");
}

TEST(PythonJson, OfEqualNamesTheFirstGivesThePlaceAndTheLastTheValue) {
  EXPECT_EQ(dumps(R"({"a": 1, "b": 2, "a": {"c": 1, "c": 3}})"), R"({"a": {"c": 3}, "b": 2})");

  const auto members = python_members(R"({"a": 1, "s": "x\ny", "a": "z"})");

  ASSERT_EQ(members.size(), 2u);
  EXPECT_EQ(members[0].value, "z");
  EXPECT_TRUE(members[0].is_string);
  EXPECT_EQ(members[1].value, "x\ny");
}

TEST(PythonJson, RefusesWhatPythonRefuses) {
  for (const char* text :
       {"",     " ",     "{",     "[",      "\"",      "\"\\",        "{\"a\"}",  "{\"a\":}", "{\"a\":1,}",
        "[1,]", "[1 2]", "{a:1}", "01",     "-",       "1.",          ".5",       "1e",       "+1",
        "nul",  "nan",   "1 2",   "\"\n\"", "\"\\x\"", "\"\\ud800\"", "\"\xff\"", "[\x01]"})
    EXPECT_THROW(dumps(text), std::runtime_error) << text;
  EXPECT_THROW(dumps(std::string("1\0", 2)), std::runtime_error);
  EXPECT_THROW(dumps(std::string(100000, '[')), std::runtime_error);
  EXPECT_THROW(python_members("[1]"), std::runtime_error);
  EXPECT_THROW(python_members("{} 1"), std::runtime_error);
}

}  // namespace
}  // namespace kt
