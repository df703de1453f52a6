#include "runtime/serve/schemas/answer_schema.h"

#include <gtest/gtest.h>

#include "runtime/serve/chat/answer_format.h"
#include "runtime/serve/errors.h"
#include "tests/serve/fakes.h"

namespace kt {
namespace {

// May a whole answer to the schema be this text?
bool admits(const std::string& schema, std::string_view text) {
  GrammarWalk walk(fake_grammar(to_structural_tag(schema_format(Json::parse(schema), "schema"))));
  for (const char c : text) {
    if (!walk.accept(static_cast<unsigned char>(c))) return false;
  }
  return walk.accept(kFakeEos);
}

std::string refusal(const std::string& schema) {
  try {
    checked_schema(Json::parse(schema), "schema");
  } catch (const BadRequest& e) {
    return e.what();
  }
  return "";
}

struct Case {
  const char* schema;
  std::vector<const char*> yes, no;
};

void expect_held(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    for (const char* text : c.yes) EXPECT_TRUE(admits(c.schema, text)) << c.schema << " " << text;
    for (const char* text : c.no) EXPECT_FALSE(admits(c.schema, text)) << c.schema << " " << text;
  }
}

TEST(AnswerSchema, HoldsRequiredNamesThatNoPropertyHas) {
  expect_held(
      {{R"({"type": "object", "required": ["a"]})", {R"({"a": 1})", R"({"a": 1, "b": 2})"}, {"{}", R"({"b": 1})"}},
       {R"({"properties": {"a": {"type": "integer"}}, "required": ["a", "b"], "type": "object",
                    "additionalProperties": {"type": "integer"}})",
        {R"({"a": 1, "b": 2})", R"({"a": 1, "b": 2, "c": 3})"},
        {R"({"a": 1})", R"({"a": 1, "b": "x"})", R"({"a": 1, "c": 2})"}}});
}

TEST(AnswerSchema, LeavesOutWhatWouldNeverEnd) {
  const std::string endless = R"("$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}},
                                              "required": ["n"]}})";
  const std::string member =
      R"({"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}, "a": {"type": "null"}}, )";
  const std::string branch = R"({"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}], )";
  const std::string items = R"({"type": "array", "prefixItems": [{"type": "null"}], "items": {"$ref": "#/$defs/n"}, )";
  expect_held(
      {{(member + endless + "}").c_str(), {"{}", R"({"a": null})"}, {R"({"n": null})", R"({"n": {}})"}},
       {(branch + endless + "}").c_str(), {"null"}, {"{}", R"({"n": null})"}},
       {(items + endless + "}").c_str(), {"[null]"}, {"[null, {}]"}},
       {R"({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]})",
        {R"({"next": null})", R"({"next": {"next": null}})"},
        {"{}"}},
       {R"({"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}, "required": ["kids"]})",
        {R"({"kids": []})", R"({"kids": [{"kids": []}]})"},
        {R"({"kids": [null]})"}},
       {R"({"type": "object", "additionalProperties": {"$ref": "#"}})", {"{}", R"({"a": {}})"}, {R"({"a": 1})"}}});
  for (const char* schema :
       {R"({"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]})",
        R"({"type": "array", "items": {"$ref": "#"}, "minItems": 1})",
        R"({"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": 1})",
        R"({"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}, "minItems": 1}},
            "required": ["kids"]})"})
    EXPECT_NE(refusal(schema).find("no value is admitted that ever ends"), std::string::npos)
        << schema << refusal(schema);
}

TEST(AnswerSchema, HoldsTypesBesideOtherKeywords) {
  expect_held({{R"({"type": "string", "enum": ["a", 1, null]})", {"\"a\""}, {"1", "null"}},
               {R"({"type": ["string", "null"], "anyOf": [{"minLength": 2}, {"pattern": "^a"}]})",
                {"\"ab\"", "\"a\"", "null"},
                {"\"b\"", "5", "[]"}},
               {R"({"type": "integer", "$ref": "#/$defs/n", "$defs": {"n": {"minimum": 3, "maximum": 5}}})",
                {"3", "5"},
                {"2", "3.5", "\"x\""}}});
}

TEST(AnswerSchema, HoldsKeywordsOfATypeWithoutTheType) {
  expect_held({{R"({"minLength": 2})", {"\"ab\"", "1", "{}", "[\"\"]", "null"}, {"\"a\""}},
               {R"({"minimum": 3})", {"3", "\"\"", "[1]"}, {"2"}},
               {R"({"exclusiveMinimum": 0, "maximum": 0})", {"\"\"", "null"}, {"0", "1"}},
               {R"({"pattern": "^aw$"})", {"\"aw\"", "7"}, {"\"a\""}},
               {R"({"maxItems": 1})", {"[]", "[1]", "\"abc\""}, {"[1,2]"}},
               {R"({"required": ["a"]})", {R"({"a":1})", "[]", "\"\""}, {"{}"}}});
}

TEST(AnswerSchema, PutsKeywordsIntoTheBranchesBesideThem) {
  expect_held({{R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                    "anyOf": [{"required": ["a"]}, {"required": ["b"]}]})",
                {R"({"a":1})", R"({"b":1})", R"({"a":1,"b":2})"},
                {"{}", R"({"a":"x"})"}},
               {R"({"anyOf": [{"type": "object", "additionalProperties": {"type": "integer"}}],
                    "propertyNames": {"enum": ["w"]}, "minProperties": 1})",
                {R"({"w":1})"},
                {"{}", R"({"a":1})", R"({"w":"x"})"}},
               {R"({"allOf": [{"properties": {"a": {"minimum": 1}}, "required": ["a"]},
                              {"properties": {"a": {"type": "integer"}, "b": {"const": 2}}, "type": "object"}]})",
                {R"({"a":1})", R"({"a":7,"b":2})"},
                {R"({"a":0})", R"({"a":1.5})", R"({"b":2})"}}});
}

TEST(AnswerSchema, FollowsReferencesWhateverTheirNames) {
  expect_held({{R"({"properties": {"x": {"$ref": "#/definitions/a~1b"}, "y": {"$ref": "#/definitions/%3Ct%3E"},
                                   "z": {"$ref": "#/definitions/m~0n"}}, "required": ["x", "y", "z"], "type": "object",
                    "definitions": {"a/b": {"const": 1}, "<t>": {"const": 2}, "m~n": {"const": 3}}})",
                {R"({"x":1,"y":2,"z":3})"},
                {R"({"x":2,"y":2,"z":3})", R"({"x":1,"y":1,"z":3})", R"({"x":1,"y":2,"z":2})"}},
               {R"({"type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"},
                    {"type": "null"}]}}, "required": ["v", "next"]})",
                {R"({"v":1,"next":{"v":2,"next":null}})"},
                {R"({"v":1,"next":{"v":2}})", R"({"v":1,"next":5})"}}});
}

TEST(AnswerSchema, TellsApartMembersNamedLikeAnnotations) {
  expect_held({{R"({"anyOf": [{"type": "object", "properties": {"k": {"const": 1}, "title": {"type": "string"}},
                               "required": ["k", "title"]},
                              {"type": "object", "properties": {"k": {"const": 1}, "title": {"type": "integer"}},
                               "required": ["k", "title"]}]})",
                {R"({"k":1,"title":"x"})", R"({"k":1,"title":5})"},
                {R"({"k":1,"title":null})"}}});
}

TEST(AnswerSchema, KeepsOtherMembersFromTakingTheNamesOfTheNamed) {
  expect_held({{R"({"type": "object", "properties": {"a": {"type": "integer"}, "é": {"type": "integer"}},
                    "additionalProperties": {"type": "string"}})",
                {R"({"a":1,"b":"x"})", R"({"ab":"x"})", R"({"é":1,"è":"x"})"},
                {R"({"a":"x"})", R"({"\u0061":"x"})", R"({"é":"x"})", R"({"b":1})"}}});
}

TEST(AnswerSchema, WritesStringsThatAreTextAndJson) {
  expect_held(
      {{R"({"type": "string"})",
        {R"("\ud83d\ude00")", R"("\u00e9\ue000")", "\"\xED\x9F\xBF\""},
        {R"("\ud83d")", R"("\ude00")", R"("\ud83dx")", "\"\xED\xA0\x80\"", "\"\xC0\x80\"", "\"\xF5\x80\x80\x80\""}},
       {R"({"type": "string", "minLength": 1, "maxLength": 3})",
        {R"("\"")", R"("a\nb")", R"("日本語")"},
        {"\"\xED\xA0\x80\"", "\"a\tb\"", R"("")", R"("abcd")"}},
       {R"({"type": "string", "pattern": "^é\"?$"})", {R"("é")", R"("é\"")"}, {"\"é\"\"", R"("e")"}}});
}

TEST(AnswerSchema, HoldsFormatsByTheirShape) {
  expect_held({{R"({"type": "string", "format": "date"})", {R"("2024-02-29")"}, {R"("2023-02-29")", R"("2024-13-01")"}},
               {R"({"type": "string", "format": "ipv4"})", {R"("10.0.0.255")"}, {R"("10.0.0.256")", R"("1.2.3")"}},
               {R"({"type": "string", "format": "uuid", "maxLength": 36})",
                {R"("123e4567-e89b-12d3-a456-426614174000")"},
                {R"("123e4567")"}},
               {R"({"type": "string", "format": "no-such-format"})", {R"("x")"}, {"1"}}});
}

TEST(AnswerSchema, TakesOneOfWhereBranchesExcludeEachOther) {
  expect_held({{R"({"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], "$defs": {
                      "cat": {"type": "object", "properties": {"is": {"const": "cat"}}, "required": ["is"]},
                      "dog": {"type": "object", "properties": {"is": {"const": "dog"}, "n": {}}, "required": ["is"]}}})",
                {R"({"is":"cat"})", R"({"is":"dog","n":1})"},
                {R"({"is":"cow"})", R"({"is":"cat","n":1})"}},
               {R"({"type": "object", "properties": {"b": {}}, "oneOf": [
                      {"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}, "required": ["b"]}]})",
                {R"({"a":1})", R"({"b":1})"},
                {R"({"a":1,"b":1})", R"({"b":1,"a":1})", "{}"}},
               {R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {}},
                    "oneOf": [{"required": ["a"]}, {"required": ["b"]}]})",
                {R"({"a":1})", R"({"b":1})"},
                {R"({"a":1,"b":1})", "{}"}},
               {R"({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]})",
                {R"({"a":1})", R"({"b":1,"c":2})"},
                {R"({"a":1,"b":1})", "{}"}}});
  EXPECT_NE(refusal(R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})").find("\"oneOf\" at #"),
            std::string::npos);
}

TEST(AnswerSchema, AdmitsOneSpaceOrIndentationBetweenMarks) {
  const char* schema = R"({"type": "object", "properties": {"a": {"type": "array", "items": {"const": 1}}}})";
  for (const char* text :
       {"{\"a\":[1,1]}", "{ \"a\" : [ 1, 1 ] }", "{\n\t\t\"a\": [\n    1,\n    1\n  ]\n}", "{}", "{ }"})
    EXPECT_TRUE(admits(schema, text)) << text;
  for (const char* text : {"{\t\"a\":[1]}", "{  \"a\":[1]}", "{\n\n\"a\":[1]}", "{\"a\":\t[1]}", "{\"a\":[1\t]}",
                           "{\t}", "{\n                     \"a\":[1]}"})
    EXPECT_FALSE(admits(schema, text)) << text;
}

TEST(AnswerSchema, RefusesWithTheKeywordAndItsPlace) {
  struct Refused {
    const char *schema, *keyword, *place;
  };
  for (const Refused& r : std::initializer_list<Refused>{
           {R"({"properties": {"a/b": {"items": {"uniqueItems": true}}}})", "uniqueItems", "#/properties/a~1b/items"},
           {R"({"$ref": "#/$defs/x", "$defs": {"x": {"not": {}}}})", "not", "#/$defs/x"},
           {R"({"additionalProperties": {"contains": {}}})", "contains", "#/additionalProperties"},
           {R"({"anyOf": [{"type": "number", "multipleOf": 0.01}]})", "multipleOf", "#/anyOf/0"},
           {R"x({"type": "string", "pattern": "a(?!b)"})x", "pattern", "#"},
           {R"({"type": "string", "pattern": "[A-Z]", "minLength": 8})", "minLength", "#"},
           {R"({"allOf": [{"pattern": "a"}, {"pattern": "b"}]})", "pattern", "#/allOf/1"},
           {R"({"type": "object", "minProperties": 2})", "minProperties", "#"},
           {R"({"patternProperties": {"^a": {"type": "null"}, "b$": {"type": "string"}}})", "patternProperties",
            "#/patternProperties/b$"},
           {R"({"patternProperties": {"^a": {}}, "additionalProperties": true})", "patternProperties", "#"},
           {R"({"dependentRequired": {"a": ["b"]}})", "dependentRequired", "#"},
           {R"({"format": "regex"})", "format", "#"},
           {R"({"$ref": "other.json"})", "$ref", "#"}}) {
    const std::string why = refusal(r.schema);
    EXPECT_NE(why.find('"' + std::string(r.keyword) + "\" at " + r.place), std::string::npos)
        << r.schema << ": " << why;
  }
}

TEST(AnswerSchema, IgnoresKeywordsThatSayNothingOfTheType) {
  expect_held(
      {{R"({"type": "string", "uniqueItems": true, "contains": {}, "multipleOf": 0.3})", {"\"a\""}, {"1"}},
       {R"({"type": "integer", "title": "t", "default": 1, "examples": [2], "deprecated": true})", {"1"}, {"\"\""}}});
}

}  // namespace
}  // namespace kt
