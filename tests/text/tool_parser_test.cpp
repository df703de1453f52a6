#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>

#include "parsed_answer.h"

namespace kt {
namespace {

using Calls = std::vector<ParsedAnswer::Call>;
using Json = nlohmann::ordered_json;

Json tool(const std::string& name, const std::string& properties) {
  const Json parameters = {{"type", "object"}, {"properties", Json::parse(properties)}};
  return {{"type", "function"}, {"function", {{"name", name}, {"parameters", parameters}}}};
}

OutputParserOptions format(std::string_view name) {
  OutputParserOptions options = formats_named(name, "");
  options.tool_list = {
      tool("write", R"({"path": {"type": "string"}, "content": {"type": "string"}})"),
      tool("search", R"({"query": {"type": "string"}, "top_k": {"type": "integer"}, "filters": {"type": "object"}})"),
  };
  return options;
}

ParsedAnswer read(std::string_view name, std::string_view text) { return parse_any_cut(format(name), text); }

std::string param(const std::string& name, const std::string& value) {
  return "<parameter=" + name + ">\n" + value + "\n</parameter>\n";
}
std::string function(const std::string& name, const std::string& params) {
  return "<function=" + name + ">\n" + params + "</function>";
}
std::string call(const std::string& name, const std::string& params) {
  return "<tool_call>\n" + function(name, params) + "\n</tool_call>";
}

std::string written(const std::string& content) { return R"({"content": )" + Json(content).dump() + "}"; }

TEST(Qwen3CoderParser, KeepsTextAroundCallsButNotTheWhiteSpaceBetweenThem) {
  const std::string search = call("search", param("query", "a"));

  EXPECT_EQ(read("qwen3_coder", "First. " + search + "\n" + search + "\nThen this.\n" + search + "\n"),
            (ParsedAnswer{"", "First. \n\nThen this.", Calls(3, {"search", R"({"query": "a"})"})}));
  EXPECT_EQ(read("qwen3_coder", "\n\n" + search + "\n"), (ParsedAnswer{"", "", {{"search", R"({"query": "a"})"}}}));
  EXPECT_EQ(read("qwen3_coder", " No call. \n"), (ParsedAnswer{"", " No call. \n"}));
}

TEST(Qwen3CoderParser, TakesProseAboutTagsForText) {
  for (const char* text : {
           "The tag <tool_call> starts a call, </tool_call> ends it.",
           "Write <function=name> and then <parameter=key>.",
           "<tool_call> comes before <function=...>",
           "<tool_call>\n</tool_call>",
           "ends in <tool_call>",
           "ends in <function=f>",
           "ends in <tool_ca",
           "#include <functional>\n3 <",
       })
    EXPECT_EQ(read("qwen3_coder", text), (ParsedAnswer{"", text}));
}

TEST(Qwen3CoderParser, ReadsCallsThatAreOneObject) {
  const std::string object = R"({"name": "search", "arguments": {"query": "a", "n": 2}})";
  const Calls one = {{"search", R"({"query": "a", "n": 2})"}};

  EXPECT_EQ(read("qwen3_coder", "Sure.\n<tool_call>\n" + object + "\n</tool_call>"), (ParsedAnswer{"", "Sure.", one}));
  EXPECT_EQ(read("qwen3_coder", "<tool_call>" + object + "</tool_call>\n" + call("search", param("query", "b"))).calls,
            (Calls{one[0], {"search", R"({"query": "b"})"}}));
  EXPECT_EQ(read("qwen3_coder", "<tool_call>" + object), (ParsedAnswer{"", "", one}));
  for (const char* text : {"<tool_call>{\"foo\": 1}</tool_call>", "<tool_call>\n{what}\n</tool_call>"})
    EXPECT_EQ(read("qwen3_coder", text), (ParsedAnswer{"", text}));
}

TEST(Qwen3CoderParser, ReadsCallsWithoutTheTagsAroundThem) {
  const Calls one = {{"search", R"({"query": "a"})"}};
  const std::string bare = function("search", param("query", "a"));

  EXPECT_EQ(read("qwen3_coder", "Now. " + bare), (ParsedAnswer{"", "Now.", one}));
  EXPECT_EQ(read("qwen3_coder", bare + "\n</tool_call>\n"), (ParsedAnswer{"", "", one}));
  EXPECT_EQ(read("qwen3_coder", "<tool_call>\n" + bare + "\n" + bare + "\n</tool_call>").calls.size(), 2u);
  EXPECT_EQ(read("qwen3_coder", "<tool_call>\n" + bare), (ParsedAnswer{"", "", one}));
}

TEST(Qwen3CoderParser, UnderstandsForgottenClosingTags) {
  const Calls one = {{"search", R"({"query": "a", "top_k": 4})"}};
  const std::string end = "</function>\n</tool_call>", k = "<parameter=top_k>\n4\n";

  for (const std::string& text : {
           "<tool_call>\n<function=search>\n<parameter=query>\na\n" + k + "</parameter>\n" + end,
           "<tool_call>\n<function=search>\n" + param("query", "a") + k + end,
           "<tool_call>\n<function=search>\n" + param("query", "a") + k + "</parameter>\n</tool_call>",
       })
    EXPECT_EQ(read("qwen3_coder", text), (ParsedAnswer{"", "", one})) << text;

  const std::string open_value = "<tool_call>\n<function=search>\n<parameter=query>\nb\n" + end;
  EXPECT_EQ(read("qwen3_coder", open_value + "\n" + call("search", param("query", "c")) + "\nDone."),
            (ParsedAnswer{"", "\n\nDone.", {{"search", R"({"query": "b"})"}, {"search", R"({"query": "c"})"}}}));
  EXPECT_EQ(read("qwen3_coder", open_value + "\nDone."),
            (ParsedAnswer{"", "\nDone.", {{"search", R"({"query": "b"})"}}}));
}

TEST(Qwen3CoderParser, KeepsMarkupInsideValues) {
  const std::string inner = call("search", param("query", "x") + param("top_k", "1"));
  for (const std::string& content : {
           std::string("<x></function> <parameter=path> </parameter> and </tool_call> <tool_call>"),
           std::string("a\n</function>\nb"),
           std::string("a\n</function>\n</tool_call>\nb"),
           std::string("a\n<parameter=other>\nb"),
           std::string("a\n<function=f>\nb"),
           std::string("<function=f>"),
           inner,
           "Two calls:\n" + inner + "\n" + inner + "\nand text",
           std::string("make 2>&1"),
           std::string("<param <funct </para </tool <tool_cal"),
           std::string("\n\n  padded  \n\n"),
           std::string("one\r\ntwo\r\n"),
           std::string("null"),
           std::string(""),
       })
    EXPECT_EQ(read("qwen3_coder", "Go.\n" + call("write", param("content", content)) + "\nok"),
              (ParsedAnswer{"", "Go.\n\nok", {{"write", written(content)}}}));
}

TEST(Qwen3CoderParser, StreamsLongStringsPieceByPiece) {
  const std::string text = call("write", param("content", std::string(1000, 'x')));

  const ParsedAnswer answer = parse(format("qwen3_coder"), single_bytes(text));

  EXPECT_EQ(answer.calls, (Calls{{"write", written(std::string(1000, 'x'))}}));
  EXPECT_GT(answer.pieces, 1000u);
}

TEST(Qwen3CoderParser, LeavesBrokenOffArgumentsIncomplete) {
  const std::string head = "Go.<tool_call>\n<function=write>\n<parameter=content>\n";

  EXPECT_EQ(read("qwen3_coder", head + "half"),
            (ParsedAnswer{"", "Go.", {{"write", "{\"content\": \"half"}}, /*cut_off=*/true}));
  EXPECT_EQ(read("qwen3_coder", head + "all\n</parameter>\n"),
            (ParsedAnswer{"", "Go.", {{"write", "{\"content\": \"all\""}}, /*cut_off=*/true}));
  EXPECT_EQ(read("qwen3_coder", "Go.<tool_call>\n<function=wri"), (ParsedAnswer{"", "Go.", {}, /*cut_off=*/true}));
}

TEST(Qwen3CoderParser, MakesTextAmidACallContentBehindIt) {
  EXPECT_EQ(read("qwen3_coder",
                 "<tool_call>\n" + function("search", param("query", "a") + "what  { is\nthis?\n") + "</tool_call>"),
            (ParsedAnswer{"", "what  { is\nthis?", {{"search", R"({"query": "a"})"}}}));
  EXPECT_EQ(read("qwen3_coder", call("search", "{}\na  b <parameter=x> c\n")),
            (ParsedAnswer{"", "a  b <parameter=x> c", {{"search", "{}"}}}));
}

TEST(Qwen3CoderParser, ReadsArgumentsThatAreOneObject) {
  EXPECT_EQ(read("qwen3_coder", call("f", "{\"a\": 1}\n")), (ParsedAnswer{"", "", {{"f", "{\"a\": 1}"}}}));
  EXPECT_EQ(read("qwen3_coder", call("f", "{\"a\": 1}\n<parameter=b>2</parameter>\n")),
            (ParsedAnswer{"", "<parameter=b>2</parameter>", {{"f", "{\"a\": 1}"}}}));
}

TEST(Qwen3CoderParser, ForwardsUnknownToolsAndParameters) {
  EXPECT_EQ(read("qwen3_coder", call("no/such-tool", param("x", "5") + param("", "y"))),
            (ParsedAnswer{"", "", {{"no/such-tool", R"({"x": "5", "": "y"})"}}}));
  EXPECT_EQ(read("qwen3_coder", call("search", "")), (ParsedAnswer{"", "", {{"search", "{}"}}}));
}

std::string kimi(const std::string& id, const std::string& arguments) {
  return "<|tool_call_begin|>" + id + "<|tool_call_argument_begin|>" + arguments + "<|tool_call_end|>";
}
std::string section(const std::string& calls) {
  return "<|tool_calls_section_begin|>" + calls + "<|tool_calls_section_end|>";
}

TEST(KimiK2Parser, ReadsWholeCallsInOneDelta) {
  EXPECT_EQ(read("kimi_k2", "Calling it." + section(kimi("functions.f:0", "{\"a\":1}") + kimi("functions.g:1", "{}"))),
            (ParsedAnswer{"", "Calling it.", {{"f", "{\"a\":1}"}, {"g", "{}"}}}));
}

TEST(KimiK2Parser, TakesNamesOfAnyCharacters) {
  EXPECT_EQ(
      read("kimi_k2", section(kimi("functions.mcp__fs__read-file:12", "{}") + kimi(" functions.a.b/c:d:0\n", "{}") +
                              kimi("plain", "{}") + kimi("functions.数据:0", "{}"))),
      (ParsedAnswer{"", "", {{"mcp__fs__read-file", "{}"}, {"a.b/c:d", "{}"}, {"plain", "{}"}, {"数据", "{}"}}}));
}

TEST(KimiK2Parser, TakesEmptyArgumentsForNone) {
  EXPECT_EQ(read("kimi_k2", section(kimi("functions.f:0", "") + kimi("functions.g:1", " \n") +
                                    "<|tool_call_begin|>functions.h:2<|tool_call_end|>")),
            (ParsedAnswer{"", "", {{"f", "{}"}, {"g", "{}"}, {"h", "{}"}}}));
}

TEST(KimiK2Parser, KeepsMarkersInsideStrings) {
  const std::string arguments = R"({"text": "<|tool_call_end|><|tool_calls_section_end|> \"<|tool_call_begin|>"})";

  EXPECT_EQ(read("kimi_k2", section(kimi("functions.f:0", arguments)) + "after"),
            (ParsedAnswer{"", "after", {{"f", arguments}}}));
}

TEST(KimiK2Parser, NeverShowsMarkersOfCalls) {
  const std::string text = "Ok. " + section(kimi("functions.f:0", "{\"a\": [1, {}]}") + kimi("functions.g:1", "{}")) +
                           "\n" + section(kimi("functions.h:2", "{\"b\": 2}"));
  for (size_t end = 0; end <= text.size(); ++end) {
    const ParsedAnswer answer = parse(format("kimi_k2"), {text.substr(0, end)});
    EXPECT_THAT(answer.content, testing::AnyOf(testing::StartsWith("Ok."), std::string("Ok. ").substr(0, end)));
    EXPECT_THAT(answer.content, testing::Not(testing::HasSubstr("<|tool_calls_section_begin|>"))) << end;
    EXPECT_THAT(answer.content, testing::Not(testing::HasSubstr("functions"))) << end;
  }
}

TEST(KimiK2Parser, ReadsCallsWithoutASectionAndWithBrokenJson) {
  EXPECT_EQ(read("kimi_k2", std::string("x") + kimi("functions.f:0", "{'a': 1}") + "y"),
            (ParsedAnswer{"", "xy", {{"f", "{'a': 1}"}}}));
  EXPECT_EQ(read("kimi_k2", section(kimi("functions.f:0", "{\"a\": 1") + kimi("functions.g:1", "{\"b\": 2}}"))),
            (ParsedAnswer{"", "}", {{"f", "{\"a\": 1"}, {"g", "{\"b\": 2}"}}}));
}

TEST(KimiK2Parser, TakesMentionedMarkersForText) {
  for (const char* text : {"The token <|tool_calls_section_begin|> starts, <|tool_calls_section_end|> ends.",
                           "<|tool_call_end|>", "a <|tool_call_begin|> b <|x|>"})
    EXPECT_EQ(read("kimi_k2", text), (ParsedAnswer{"", text}));
}

std::string dsml(const std::string& name, const std::string& inside) {
  return "<｜DSML｜invoke name=\"" + name + "\">\n" + inside + "</｜DSML｜invoke>\n";
}
std::string dsml_param(const std::string& name, const std::string& attribute, const std::string& value) {
  return "<｜DSML｜parameter name=\"" + name + "\"" + attribute + ">" + value + "</｜DSML｜parameter>\n";
}
std::string dsml_section(const std::string& calls) {
  return "<｜DSML｜function_calls>\n" + calls + "</｜DSML｜function_calls>";
}

TEST(DsmlParser, ReadsTypesFromTheMarkup) {
  const std::string is_string = " string=\"true\"", is_json = " string=\"false\"";
  const std::string params = dsml_param("a", is_string, " \n5\n ") + dsml_param("b", is_json, "-5") +
                             dsml_param("c", is_json, "1.50") + dsml_param("d", is_json, "True") +
                             dsml_param("e", is_json, "not JSON") + dsml_param("f", is_string, "") +
                             dsml_param("top_k", "", "7") + dsml_param("g", is_json, "[1, {\"k\": null}]");

  EXPECT_EQ(read("deepseekv32", dsml_section(dsml("search", params))).calls,
            (Calls{{"search", R"({"a": " \n5\n ", "b": -5, "c": 1.50, "d": true, "e": "not JSON", "f": "", )"
                              R"("top_k": 7, "g": [1, {"k": null}]})"}}));
}

TEST(DsmlParser, KeepsTextAroundAllSections) {
  const std::string one = dsml("f", dsml_param("x", " string=\"true\"", "1"));

  EXPECT_EQ(read("deepseekv32", "a <｜ b </｜ c\n\n" + dsml_section(one + one) + "\nd\n" + dsml_section(one) + "e <"),
            (ParsedAnswer{"", "a <｜ b </｜ c\n\n\nd\ne <", Calls(3, {"f", R"({"x": "1"})"})}));
  EXPECT_EQ(read("deepseekv32", "Bare: " + one), (ParsedAnswer{"", "Bare:", {{"f", R"({"x": "1"})"}}}));
  EXPECT_EQ(read("deepseekv32", "<｜DSML｜function_calls> opens, </｜DSML｜function_calls> closes."),
            (ParsedAnswer{"", "<｜DSML｜function_calls> opens, </｜DSML｜function_calls> closes."}));
}

TEST(DsmlParser, ReadsArgumentsThatAreOneObject) {
  EXPECT_EQ(read("deepseekv32", dsml_section(dsml("f", "{\"a\": \"</｜DSML｜invoke>\"}\n") + dsml("g", "{}\n"))),
            (ParsedAnswer{"", "", {{"f", "{\"a\": \"</｜DSML｜invoke>\"}"}, {"g", "{}"}}}));
}

TEST(DsmlParser, KeepsCallsInsideValues) {
  const std::string inner = dsml_section(dsml("f", dsml_param("x", " string=\"true\"", "1")));
  EXPECT_EQ(read("deepseekv32", dsml_section(dsml("write", dsml_param("content", " string=\"true\"", inner)))),
            (ParsedAnswer{"", "", {{"write", written(inner)}}}));
}

TEST(DsmlParser, DropsTagsThatMakeNoCall) {
  const std::string open = "<｜DSML｜function_calls>", close = "</｜DSML｜function_calls>";

  EXPECT_EQ(read("deepseekv32", "Before " + open + close + " after."), (ParsedAnswer{"", "Before  after."}));
  EXPECT_EQ(read("deepseekv32", "Before " + open + " \n\n" + close), (ParsedAnswer{"", "Before "}));
  for (const char* tag : {"</｜DSML｜function_calls>", "</｜DSML｜invoke>", "</｜DSML｜parameter>"})
    EXPECT_EQ(read("deepseekv32", "Before " + std::string(tag) + "after."), (ParsedAnswer{"", "Before after."}));
  EXPECT_EQ(parse(format("deepseekv32"), {"Cut off. " + open}).content, "Cut off. ");
}

TEST(ToolParsers, ShowNoClosingTagsBehindCalls) {
  const std::pair<const char*, std::string> kAnswers[] = {
      {"qwen3_coder", call("f", "") + "\n</tool_call>\n</function>\n</parameter>\n</tool_call>"},
      {"qwen3_coder", "<tool_call>{\"name\": \"f\"}</tool_call>\n</tool_call>"},
      {"hermes", "<tool_call>{\"name\": \"f\"}</tool_call>\n</tool_call>"},
      {"kimi_k2", section(kimi("functions.f:0", "{}")) + "<|tool_calls_section_end|><|tool_call_end|>"},
      {"deepseekv32", dsml_section(dsml("f", "")) + "\n</｜DSML｜invoke>\n</｜DSML｜function_calls>"},
  };
  for (const auto& [name, text] : kAnswers) {
    EXPECT_EQ(read(name, "Now. " + text), (ParsedAnswer{"", "Now.", {{"f", "{}"}}})) << text;
    EXPECT_EQ(read(name, text + " Done.").content, " Done.") << text;
  }
}

TEST(DeepSeekV3Parser, ReadsFencedArguments) {
  const std::string begin = "<｜tool▁calls▁begin｜>", end = "<｜tool▁calls▁end｜>";
  const std::string head = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>";

  EXPECT_EQ(read("deepseekv3", "a" + begin + head + "f\n```json\n{\"x\": \"```\"}\n```<｜tool▁call▁end｜>\n" + head +
                                   "g\n{}<｜tool▁call▁end｜>" + end + "b"),
            (ParsedAnswer{"", "a\nb", {{"f", "{\"x\": \"```\"}"}, {"g", "{}"}}}));
}

TEST(HermesParser, ReadsMembersInAnyOrder) {
  const std::pair<const char*, const char*> kObjects[] = {
      {R"({"name": "f", "arguments": {"a": 1.10}})", R"({"a": 1.10})"},
      {R"({"arguments": {"a": {}}, "id": [1, "}"], "name": "f"})", R"({"a": {}})"},
      {R"({"name": "f", "parameters": {"</tool_call>": "<tool_call>"}})", R"({"</tool_call>": "<tool_call>"})"},
      {R"({"na\u006de":"f"})", "{}"},
      {R"({"name": "f", "arguments": null})", "{}"},
      {R"({"name": "f", "arguments": "{\"a\": 1}"})", R"({"a": 1})"},
      {R"({"name": "f", "arguments": {"a": 1})", R"({"a": 1})"},
  };
  for (const auto& [object, arguments] : kObjects)
    EXPECT_EQ(read("hermes", "x <tool_call>\n" + std::string(object) + "\n</tool_call> y"),
              (ParsedAnswer{"", "x  y", {{"f", arguments}}}))
        << object;
}

TEST(HermesParser, TakesWhatIsNoCallForText) {
  for (const char* text : {"a <tool_call> b", "<tool_call>{\"foo\": 1}</tool_call>", "<tool_call>{what}</tool_call>",
                           "<tool_call>{\"name\": 5}</tool_call>"})
    EXPECT_EQ(read("qwen25", text), (ParsedAnswer{"", text}));
}

TEST(JsonArrayParser, ReadsTheArrayOfCalls) {
  EXPECT_EQ(read("json_array",
                 " [ {\"name\": \"f\", \"parameters\": {}},\n{\"name\": \"g\", \"parameters\": {\"a\": [1]}} ] "),
            (ParsedAnswer{"", "", {{"f", "{}"}, {"g", "{\"a\": [1]}"}}}));
  for (const char* text : {"[1, 2]", "no array", "[", "[]", "[{\"foo\": 1}]", ""})
    EXPECT_EQ(read("json_array", text), (ParsedAnswer{"", text}));
}

TEST(ToolParsers, ShowNoHalfCallAndNoFalseEnd) {
  // Whatever was cut off: arguments that read as JSON belong to calls that are whole in the text.
  const std::pair<const char*, std::string> kAnswers[] = {
      {"qwen3_coder", call("write", param("path", "p") + param("content", "a\n</function>\nb"))},
      {"kimi_k2", section(kimi("functions.f:0", "{\"a\": {}}"))},
      {"deepseekv32", dsml_section(dsml("f", dsml_param("x", " string=\"false\"", "{}")))},
      {"hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": {}}}</tool_call>"},
      {"json_array", "[{\"name\": \"f\", \"parameters\": {\"a\": {}}}]"},
  };
  for (const auto& [name, text] : kAnswers) {
    const std::string whole = read(name, text).calls.at(0).arguments;
    for (size_t end = 0; end < text.size(); ++end)
      for (const ParsedAnswer::Call& c : parse(format(name), {text.substr(0, end)}).calls)
        EXPECT_TRUE(c.arguments == whole || !Json::accept(c.arguments)) << text.substr(0, end) << ": " << c.arguments;
  }
}

TEST(ToolParsers, NameCallIdsAsTheModelsLearntThem) {
  const std::string digits = "0123456789abcdef0123456789abcdef";

  EXPECT_EQ(tool_call_id(*find_tool_format("kimi_k2"), "get_weather", 3, digits), "functions.get_weather:3");
  EXPECT_EQ(tool_call_id(*find_tool_format("qwen3_coder"), "f", 0, digits), "call_0123456789abcdef01234567");
}

// Markup in any sequence: read the same however it is cut, and no word is lost.
TEST(ToolParsers, ReadShuffledMarkupTheSameHoweverItIsCut) {
  const std::string parts[] = {
      "<tool_call>",
      "</tool_call>",
      "<function=write>",
      "</function>",
      "<parameter=path>",
      "<parameter=content>",
      "</parameter>",
      "\n",
      "\n",
      " ",
      "w1",
      "{\"name\": \"f\", ",
      "\"arguments\": {",
      "\"a\": 1",
      "}",
      "\"",
      "[",
      "]",
      "<|tool_calls_section_begin|>",
      "<|tool_call_begin|>functions.f:0",
      "<|tool_call_argument_begin|>",
      "{}",
      "<|tool_call_end|>",
      "<|tool_calls_section_end|>",
      "<｜DSML｜function_calls>",
      "<｜DSML｜invoke name=\"f\">",
      "<｜DSML｜parameter name=\"a\" string=\"true\">",
      "</｜DSML｜parameter>",
      "</｜DSML｜invoke>",
      "</｜DSML｜function_calls>",
      "<｜tool▁calls▁begin｜>",
      "<｜tool▁call▁begin｜>f",
      "<｜tool▁sep｜>",
      "```json\n",
      "```",
      "<｜tool▁call▁end｜>",
      "<think>",
      "</think>",
      "<",
      "</",
  };
  std::mt19937 random(7);
  for (int i = 0; i < 1000; ++i) {
    std::string text;
    // A window of the parts makes it likely that they fit together.
    const size_t first = random() % std::size(parts);
    for (size_t n = random() % 25; n > 0; --n) text += parts[(first + random() % 12) % std::size(parts)];
    for (const ToolFormat& f : tool_formats()) {
      OutputParserOptions options = format(f.name);
      options.reasoning = i % 2 ? find_reasoning_format("qwen3") : nullptr;
      options.in_reasoning = i % 4 == 1;
      const ParsedAnswer answer = parse_any_cut(options, text);
      std::string shown = answer.reasoning + answer.content;
      for (const ParsedAnswer::Call& c : answer.calls) shown += c.name + c.arguments;
      const auto words = [](std::string_view in) {
        size_t count = 0;
        for (size_t at = in.find("w1"); at != in.npos; at = in.find("w1", at + 1)) ++count;
        return count;
      };
      // A call that is one object may have members besides its name and arguments, which are dropped.
      const bool one_object =
          f.make == make_hermes_parser || f.make == make_json_array_parser || f.make == make_qwen3_coder_parser;
      EXPECT_TRUE(answer.cut_off || one_object || words(shown) == words(text)) << f.name << ": " << text;
    }
    if (testing::Test::HasFailure()) break;
  }
}

// In processor time, which other load on the machine does not change.
double seconds_byte_by_byte(const OutputParserOptions& options, const std::string& text) {
  const std::clock_t start = std::clock();
  parse(options, single_bytes(text));
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

// A text four times as long takes four times as long, where quadratic time would be sixteen times (0.2 s and more).
template <class TextOf>
void expect_linear_time(const OutputParserOptions& options, const TextOf& text_of) {
  const double once = seconds_byte_by_byte(options, text_of(1 << 14));
  EXPECT_LT(seconds_byte_by_byte(options, text_of(1 << 16)), 8 * once + 0.02)
      << options.tools->name << ": " << text_of(80);
}

TEST(ToolParsers, ReadLongAnswersInLinearTime) {
  const auto object = [](size_t size) { return fmt::format("{{\"content\": \"{}\"}}", std::string(size, 'x')); };

  expect_linear_time(format("qwen3_coder"), [](size_t n) { return std::string(n, 'x'); });
  expect_linear_time(format("qwen3_coder"),
                     [](size_t n) { return call("write", param("content", std::string(n, 'x'))); });
  expect_linear_time(format("kimi_k2"), [&](size_t n) { return section(kimi("functions.write:0", object(n))); });
  expect_linear_time(format("hermes"),
                     [&](size_t n) { return "<tool_call>{\"name\": \"write\", \"arguments\": " + object(n) + "}"; });
}

TEST(ToolParsers, ReadHostileAnswersInLinearTime) {
  struct Hostile {
    std::string begin, repeated, end;
  };
  const std::string open_value = "<tool_call>\n<function=write>\n<parameter=content>\n";
  const Hostile texts[] = {
      {"", "<", ""},
      {"", "<tool_call>\n", ""},
      {"", "</parameter>\n", ""},
      {"<tool_call>", " ", ""},
      {"<tool_call>\n<function=", "f", ""},
      {"", "<tool_call>\n<function=f<", ""},
      {open_value, "line of text\n", ""},
      {open_value, "<function=f>\n<parameter=a>\n", ""},
      {open_value, "a\n</function>\n</tool_call>\n", ""},
      {"", call("write", "<parameter=content>\n<function=f>\n<parameter=x>\ny\n</parameter>\n"), ""},
      {"<tool_call>\n<function=search>\n<parameter=filters>\n", "[", ""},
      {"<tool_call>\n<function=search>\n<parameter=filters>\n", "{'a': ", ""},
      {"<tool_call>{\"name\": \"f\", \"arguments\": ", "{\"a\": [", "</tool_call>"},
      {"<tool_call>{\"arguments\": {\"a\": \"", "\\\"x", ""},
      {"<|tool_call_begin|>", "<|", ""},
      {"", "<|tool_calls_section_begin|><|tool_call_begin|>f<|tool_call_argument_begin|>{", ""},
      {"", "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n", ""},
      {"", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}", ""},
      {"[", "{\"name\": \"f\", \"parameters\": {}},", ""},
      {"", "</think></thin", ""},
      {"", "\xFF\xC0\x80\xED\xA0\x80", ""},
      {"", std::string("\0\x01\x1F", 3), ""},
  };
  for (const ToolFormat& f : tool_formats()) {
    if (f.name == "qwen" || f.name == "qwen25") continue;  // read as hermes
    OutputParserOptions options = format(f.name);
    options.reasoning = find_reasoning_format("qwen3");
    for (const Hostile& hostile : texts) {
      const auto text_of = [&](size_t size) {
        std::string text = hostile.begin;
        while (text.size() < size) text += hostile.repeated;
        return text + hostile.end;
      };
      for (const bool in_reasoning : {false, true}) {
        options.in_reasoning = in_reasoning;
        expect_linear_time(options, text_of);
      }
    }
  }
}

}  // namespace
}  // namespace kt
