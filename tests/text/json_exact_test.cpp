#include "runtime/text/json/json_exact.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace kt {
namespace {

std::string round_trip(std::string_view text) { return dump_exact(parse_exact(text)); }

std::string error_of(std::string_view text, int max_depth = 64) {
  try {
    parse_exact(text, max_depth);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

TEST(JsonExact, KeepsIntegersOfAnySize) {
  for (const char* text : {"0", "-1", "9223372036854775807", "18446744073709551615", "18446744073709551616",
                           "-9223372036854775809", "123456789012345678901234567890",
                           R"({"a":[1,340282366920938463463374607431768211456,{"b":-99999999999999999999}]})"})
    EXPECT_EQ(round_trip(text), text);
}

TEST(JsonExact, KeepsTheOrderOfKeysAndTheKindOfNumbers) {
  EXPECT_EQ(round_trip(R"({"z":1,"a":1.0,"m":1e16,"k":1e-07,"n":null,"t":true,"s":"é😀\n\"","e":[],"o":{}})"),
            R"({"z":1,"a":1.0,"m":1e+16,"k":1e-07,"n":null,"t":true,"s":"é😀\n\"","e":[],"o":{}})");
}

TEST(JsonExact, ARepeatedKeyKeepsItsFirstPlaceAndItsLastValue) {
  EXPECT_EQ(round_trip(R"({"a":1,"b":{"c":2},"a":[3]})"), R"({"a":[3],"b":{"c":2}})");
}

TEST(JsonExact, ABigIntegerIsNeitherANumberNorAStringOfTheTree) {
  const auto value = parse_exact("18446744073709551616");

  EXPECT_FALSE(value.is_number());
  EXPECT_FALSE(value.is_string());
}

TEST(JsonExact, RefusesBadTextWithThePosition) {
  EXPECT_NE(error_of("{\"a\": 1,\n \"b\" 2}").find("line 2, column 6"), std::string::npos);
  for (const char* text : {"", " ", "{", "[1,]", "1 2", "nul", "NaN", "1e999", "01", "'a'", "{\"a\":1}}", "[1]]"})
    EXPECT_NE(error_of(text), "") << text;
}

TEST(JsonExact, RefusesWhatIsNotUnicode) {
  EXPECT_NE(error_of("\"\xff\""), "");
  EXPECT_NE(error_of("\"\xc3\""), "");
  EXPECT_NE(error_of("\"\xed\xa0\x80\""), "");
  EXPECT_NE(error_of(R"("\ud800")"), "");
  EXPECT_NE(error_of(R"("\udc00")"), "");
  EXPECT_EQ(round_trip(R"("\ud83d\ude00")"), "\"😀\"");
}

TEST(JsonExact, ManyKeysCostNoMoreThanTheirNumber) {
  std::string text = "{\"0\":0";  // a quadratic look-up would take minutes
  for (int i = 1; i < 300000; ++i) text += ",\"" + std::to_string(i) + "\":" + std::to_string(i);
  text += "}";

  EXPECT_EQ(round_trip(text), text);
}

TEST(JsonExact, LimitsTheDepth) {
  EXPECT_EQ(error_of("[[1]]", 2), "");
  EXPECT_EQ(error_of("[[[1]]]", 2), "JSON nested deeper than 2 levels at byte 2");
  EXPECT_EQ(error_of("[\"[[[\\\"[\"]", 2), "");
  EXPECT_NE(error_of(std::string(1000000, '[')), "");
}

}  // namespace
}  // namespace kt
