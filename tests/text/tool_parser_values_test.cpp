#include <gtest/gtest.h>

#include "runtime/text/answers/tool_schema.h"
#include "runtime/text/answers/tool_value_writer.h"
#include "runtime/text/answers/tool_values.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

// A value for the parameter "v" of a function whose parameters are `parameters`, or {"v": schema}.
std::string typed(const std::string& schema, std::string_view text) {
  const Json parameters = {{"$defs", {{"count", {{"type", "integer"}}}, {"loop", {{"$ref", "#/$defs/loop"}}}}},
                           {"properties", {{"v", Json::parse(schema)}}}};
  const Json tools = Json::array({{{"function", {{"name", "f"}, {"parameters", parameters}}}}});
  return typed_value(ToolSchemas(tools).types("f", "v").value(), text);
}

TEST(ToolValues, NeverAlterStrings) {
  for (const char* text : {"null", "NULL", "5", "true", "{\"k\": 1}", "  padded \n", "", "None"})
    EXPECT_EQ(typed(R"({"type": "string"})", text), Json(text).dump());
  EXPECT_EQ(typed("{}", "5"), "\"5\"");
  EXPECT_EQ(typed(R"({"description": "no type"})", "5"), "\"5\"");
}

TEST(ToolValues, FollowTheSchemasTypes) {
  const std::string kCases[][3] = {
      {R"({"type": "integer"})", " 42 ", "42"},
      {R"({"type": "integer"})", "+5", "5"},
      {R"({"type": "integer"})", "3.7", "\"3.7\""},
      {R"({"type": "integer"})", "1,000", "\"1,000\""},
      {R"({"type": "integer"})", "null", "null"},
      {R"({"type": "integer"})", "123456789012345678901234567890", "123456789012345678901234567890"},
      {R"({"type": "number"})", "1.10", "1.10"},
      {R"({"type": "number"})", "1e-5", "1e-5"},
      {R"({"type": "number"})", "7", "7"},
      {R"({"type": "number"})", ".5", "0.5"},
      {R"({"type": "number"})", "nan", "\"nan\""},
      {R"({"type": "number"})", "1e999", "\"1e999\""},
      {R"({"type": "boolean"})", "True", "true"},
      {R"({"type": "boolean"})", "yes", "false"},
      {R"({"type": "object"})", "{\"a\": 123456789012345678901}", "{\"a\": 123456789012345678901}"},
      {R"({"type": "object"})", "{'a': True, 'b': None}", "{\"a\": true, \"b\": null}"},
      {R"({"type": "object"})", "{broken", "\"{broken\""},
      {R"({"type": "array"})", "\n[1, \"]\"]\n", "[1, \"]\"]"},
      {R"({"type": ["string", "null"]})", "123", "\"123\""},
      {R"({"type": ["string", "null"]})", "null", "null"},
      {R"({"type": ["string", "null"]})", " null", "\" null\""},
      {R"({"type": ["string", "integer"]})", "5", "5"},
      {R"({"type": ["string", "integer"]})", "007", "\"007\""},
      {R"({"anyOf": [{"type": "object"}, {"type": "null"}]})", "{\"k\": 1}", "{\"k\": 1}"},
      {R"({"anyOf": [{"type": "integer"}, {"type": "null"}]})", "5", "5"},
      {R"({"oneOf": [{"type": "string"}, {"type": "array"}]})", "[\"a\"]", "[\"a\"]"},
      {R"({"oneOf": [{"type": "string"}, {"type": "array"}]})", "{\"a\": 1}", R"("{\"a\": 1}")"},
      {R"({"allOf": [{"$ref": "#/$defs/count"}, {"description": "x"}]})", "5", "5"},
      {R"({"$ref": "#/$defs/count"})", "5", "5"},
      {R"({"$ref": "#/$defs/loop"})", "5", "\"5\""},
      {R"({"$ref": "#/no/where"})", "5", "\"5\""},
      {R"({"$ref": "#no pointer"})", "5", "\"5\""},
      {R"({"enum": ["red", "5"]})", "5", "\"5\""},
      {R"({"enum": [1, 2]})", "2", "2"},
      {R"({"const": true})", "true", "true"},
      {R"({"type": 7})", "5", "\"5\""},
  };
  for (const auto& [schema, text, json] : kCases) EXPECT_EQ(typed(schema, text), json) << schema << " " << text;
}

TEST(ToolValues, AreReadOutOfSchemasThatAreNone) {
  for (const char* tools : {"null", "{}", "[1]", "[{}]", R"([{"function": {"name": 5}}])",
                            R"([{"function": {"name": "f", "parameters": {"properties": [1]}}}])"}) {
    const ToolSchemas schemas(Json::parse(tools));
    EXPECT_FALSE(schemas.types("f", "v")) << tools;
    EXPECT_TRUE(schemas.may_have("f", "v")) << tools;
  }
  std::string fan = R"({"type": "integer"})";
  for (int i = 0; i < 40; ++i) fan = R"({"anyOf": [)" + fan + R"(, {"$ref": "#/properties/v"}]})";
  EXPECT_EQ(typed(fan, "5"), "\"5\"");
}

TEST(ToolValues, ReadPythonsLiterals) {
  EXPECT_EQ(json_of_python(R"(['a', "it's", 'q"', (1,), {}, {'k': -1.5,}, True, None])"),
            R"(["a", "it's", "q\"", [1], {}, {"k": -1.5}, true, null])");
  EXPECT_EQ(json_of_python(R"('\x41\u00e9\U0001F600\n\'\z')"), "\"Aé😀\\n'\\\\z\"");
  for (const char* text : {"", "[", "[1,,2]", "{'a'}", "{1: 2}", "foo", "'open", "'\\ud800'", "1 2", "[1] x", "'\\x4'"})
    EXPECT_FALSE(json_of_python(text)) << text;
  EXPECT_FALSE(json_of_python(std::string(100000, '[')));
}

TEST(ToolValues, EscapeWhatJsonMustEscape) {
  EXPECT_EQ(json_quoted(std::string("\"\\\n\r\t\b\0\x1F\x7F/é", 12)),
            "\"\\\"\\\\\\n\\r\\t\\u0008\\u0000\\u001f\x7F/é\"");
}

TEST(ToolValues, StreamStringsAsSoonAsTheirTypeIsClear) {
  ValueWriter plain = ValueWriter::typed(kStringType);
  EXPECT_EQ(plain.add("a\n"), "\"a\\n");
  EXPECT_EQ(plain.add("b"), "b");
  EXPECT_EQ(plain.end(), "\"");

  ValueWriter nullable = ValueWriter::typed(kStringType | kNullType);
  EXPECT_EQ(nullable.add("null"), "");
  EXPECT_EQ(nullable.end(), "null");

  ValueWriter long_text = ValueWriter::typed(kStringType | kNullType);
  EXPECT_EQ(long_text.add(std::string(100, 'x')), '"' + std::string(100, 'x'));
  EXPECT_EQ(long_text.add("y"), "y");
  EXPECT_EQ(long_text.end(), "\"");
}

}  // namespace
}  // namespace kt
