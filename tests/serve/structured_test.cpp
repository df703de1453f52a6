// Answers in a form that the client demands: what is asked of the engine, and what becomes of its answers.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "runtime/serve/anthropic/anthropic.h"
#include "runtime/serve/openai/openai_chat.h"
#include "runtime/serve/openai/openai_completions.h"
#include "runtime/serve/sglang/generate.h"
#include "tests/serve/support.h"

namespace kt {
namespace {

constexpr std::string_view kTools = R"(, "tools": [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "required": ["a"],
      "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}}},
    {"type": "function", "function": {"name": "stop now"}}])";
constexpr std::string_view kRain =
    R"({"type": "object", "properties": {"rain": {"type": "boolean"}}, "required": ["rain"]})";

Job chat(std::string_view members, const ServedModel& model = fake_model()) {
  return job_of(parse_chat(fmt::format(R"({{"messages": [{{"role": "user", "content": "hi"}}]{}}})", members), model));
}

ServedModel model_with(std::string_view tools, std::string_view reasoning) {
  ServedModel model = fake_model();
  model.tools = find_tool_format(tools);
  model.reasoning = find_reasoning_format(reasoning);
  return model;
}

// May a whole answer to the job be this text?
bool admits(const Job& job, std::string_view text, size_t order = 0) {
  GrammarWalk walk(fake_grammar(job.grammars.at(order).structural_tag));
  for (const char c : text) {
    if (!walk.accept(static_cast<unsigned char>(c))) return false;
  }
  return walk.accept(kFakeEos);
}

TEST(Structured, ReadsEveryWayToDemandAForm) {
  const std::string rain(kRain);
  const Json as_text = rain;
  for (const std::string& member :
       {R"("response_format": {"type": "json_schema", "json_schema": {"name": "r", "strict": true, "schema": )" + rain +
            "}}",
        R"("response_format": {"type": "json_schema", "schema": )" + rain + "}", R"("json_schema": )" + rain,
        R"("json_schema": )" + as_text.dump(), std::string(R"("regex": "\\{\"rain\": (true|false)\\}")"),
        std::string(R"("ebnf": "root ::= \"{\\\"rain\\\": \" (\"true\" | \"false\") \"}\"")"),
        R"("structural_tag": {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": )" + rain +
            "}}"}) {
    SCOPED_TRACE(member);
    const Job job = chat(", " + member);
    ASSERT_EQ(job.grammars.size(), 1u);
    EXPECT_TRUE(admits(job, R"({"rain": true})"));
    EXPECT_FALSE(admits(job, R"({"rain": 1})"));
    EXPECT_FALSE(admits(job, "It rains."));
  }
}

TEST(Structured, DemandsNothingOfPlainText) {
  EXPECT_TRUE(chat("").grammars.empty());
  EXPECT_TRUE(chat(R"(, "response_format": {"type": "text"})").grammars.empty());
  EXPECT_TRUE(chat(R"(, "response_format": null, "regex": null)").grammars.empty());
}

TEST(Structured, TakesAnyObjectForJsonObject) {
  const Job job = chat(R"(, "response_format": {"type": "json_object"})");
  EXPECT_TRUE(admits(job, R"({"a": [1, {"b": null}], "c": "d"})"));
  EXPECT_TRUE(admits(job, "{}"));
  EXPECT_FALSE(admits(job, "[1]"));
  EXPECT_FALSE(admits(job, R"({"a": })"));
}

TEST(Structured, HoldsTheSchemaOfAJsonObject) {
  const Job job = chat(R"(, "response_format": {"type": "json_object", "schema": {"properties": {"team":
      {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["team"]}})");
  EXPECT_TRUE(admits(job, R"({"team": 5})"));
  for (const char* text : {"{}", R"({"team": 10})", R"({"a": 1})", "5"}) EXPECT_FALSE(admits(job, text)) << text;
}

TEST(Structured, BoundsWhiteSpaceInPartsOfAStructuralTag) {
  const std::string schema = R"({"type": "json_schema", "json_schema": {"type": "array"}, "max_whitespace_cnt": 500})";
  const Job job = chat(R"(, "structural_tag": {"format": {"type": "tag", "begin": "<a>", "content": )" + schema +
                       R"(, "end": "</a>"}})");
  EXPECT_TRUE(admits(job, "<a>[\n  1]</a>"));
  EXPECT_FALSE(admits(job, "<a>[\t\t1]</a>"));
}

TEST(Structured, BoundsStringsAndKeepsThemJson) {
  const Job job = chat(R"(, "json_schema": {"type": ["string", "null"], "minLength": 2, "maxLength": 4})");
  for (const char* text : {"\"ab\"", "\"日本日本\"", "null"}) EXPECT_TRUE(admits(job, text)) << text;
  for (const char* text : {"\"a\"", "\"abcde\"", "\"a\tb\"", "\"a\nb\"", "\"a\"b\""})
    EXPECT_FALSE(admits(job, text)) << text;
  EXPECT_TRUE(
      admits(chat(R"(, "json_schema": {"type": "string", "minLength": 1})"), "\"" + std::string(99, 'x') + "\""));
  EXPECT_FALSE(admits(chat(R"(, "json_schema": {"type": "string", "minLength": 1})"), "\"\""));
  const Job longer = chat(R"(, "json_schema": {"type": "string", "minLength": 2, "maxLength": 300})");
  EXPECT_TRUE(admits(longer, "\"" + std::string(300, 'x') + "\""));
  for (const std::string& text : {"\"" + std::string(301, 'x') + "\"", std::string("\"x\""), std::string("\"a\tb\"")})
    EXPECT_FALSE(admits(longer, text)) << text;
}

TEST(Structured, AdmitsIndentedJsonButNotEndlessWhiteSpace) {
  const Job job = chat(fmt::format(R"(, "json_schema": {})", kRain));
  EXPECT_TRUE(admits(job, "{\n    \"rain\": true\n}"));
  EXPECT_FALSE(admits(job, "{" + std::string(21, ' ') + "\"rain\": true}"));
}

// As OpenAI's strict mode has it; but a schema that says nothing about members means any.
TEST(Structured, AdmitsTheMembersThatTheSchemaSpeaksOf) {
  const Job closed = chat(fmt::format(R"(, "json_schema": {})", kRain));
  EXPECT_FALSE(admits(closed, R"({"rain": true, "snow": true})"));
  const Job open = chat(
      R"(, "json_schema": {"type": "object", "properties": {"any": {"type": "object"}, "all": {"type": "array"}}})");
  EXPECT_TRUE(admits(open, R"({"any": {"snow": 1}, "all": [1, "b"]})"));
  EXPECT_FALSE(admits(open, R"({"snow": 1})"));
}

TEST(Structured, OrdersOneGrammarForAllChoices) {
  const Job job = chat(R"(, "n": 3, "regex": "a")");
  ASSERT_EQ(job.grammars.size(), 1u);
  EXPECT_EQ(job.grammars[0].first, 0u);
  EXPECT_EQ(job.grammars[0].count, 3u);
  EXPECT_EQ(job.grammars[0].param, "regex");
}

TEST(Structured, CompletionsAndGenerateHaveItToo) {
  const Job completion = job_of(parse_completions(R"({"prompt": ["a", "b"], "regex": "x+"})", fake_model()));
  EXPECT_TRUE(admits(completion, "xx"));
  EXPECT_EQ(completion.grammars[0].count, 2u);

  const Job native = job_of(parse_generate(
      R"({"text": ["a", "b", "c"], "sampling_params": [{}, {"n": 2, "ebnf": "root ::= \"y\""}, {"regex": "z"}]})",
      fake_model()));
  ASSERT_EQ(native.grammars.size(), 2u);
  EXPECT_EQ(native.grammars[0].first, 1u);
  EXPECT_EQ(native.grammars[0].count, 2u);
  EXPECT_TRUE(admits(native, "y", 0));
  EXPECT_EQ(native.grammars[1].first, 3u);
  EXPECT_TRUE(admits(native, "z", 1));
}

TEST(Structured, BeginsBehindTheReasoning) {
  const std::string members = fmt::format(R"(, "json_schema": {})", kRain);
  const ServedModel model = model_with("qwen3_coder", "qwen3");
  const Job job = chat(members, model);
  EXPECT_TRUE(admits(job, "Rain? {\"rain\"</think>\n\n{\"rain\": true}"));
  EXPECT_TRUE(admits(job, R"(</think>{"rain": false})"));
  EXPECT_FALSE(admits(job, R"({"rain": true})"));
  EXPECT_FALSE(admits(job, "Rain?</think>It rains."));

  const Job at_once = chat(members + R"(, "chat_template_kwargs": {"enable_thinking": false})", model);
  EXPECT_TRUE(admits(at_once, R"({"rain": true})"));
}

TEST(Structured, TakesExpressionsOfAReasonableSize) {
  for (const char* pattern : {"[a-z0-9]{1,64}@[a-z]{1,64}\\\\.[a-z]{2,10}", "(\\\\d{4}-\\\\d{2}-\\\\d{2};){16}",
                              "a{,256}", "[{256}]{3}\\\\{999", "(a|b|c){80}"})
    chat(fmt::format(R"(, "regex": "{}")", pattern));
  chat(R"(, "ebnf": "root ::= item{1,200}\nitem ::= \"x\"")");
}

TEST(Structured, LetsNoDotOfAnExpressionEndALine) {
  const Job job = chat(R"(, "regex": "a.[.]\\..*")");
  EXPECT_TRUE(admits(job, "ab..cd"));
  EXPECT_TRUE(admits(job, "aé.."));
  EXPECT_FALSE(admits(job, "a\n..x"));
  EXPECT_FALSE(admits(job, "ab..c\nd"));
}

TEST(Structured, IsRefusedWhereNoTokenEndsAnAnswer) {
  ServedModel model = fake_model();
  model.compile_grammar = nullptr;
  const auto parsed = parse_chat(R"({"messages": [{"role": "user", "content": "hi"}], "regex": "a"})", model);
  ASSERT_TRUE(std::holds_alternative<ApiError>(parsed));
  EXPECT_EQ(std::get<ApiError>(parsed).param, "regex");
}

TEST(ForcedCalls, AreAnArrayOfCallsOfTheTools) {
  const Job job = chat(std::string(kTools) + R"(, "tool_choice": "required")");
  EXPECT_TRUE(admits(job, R"([{"name": "add", "parameters": {"a": 5}}])"));
  EXPECT_TRUE(admits(job, R"([{"name": "stop now", "parameters": {}}, {"name": "add", "parameters": {"a": -1}}])"));
  EXPECT_FALSE(admits(job, "[]"));
  EXPECT_FALSE(admits(job, R"([{"name": "add", "parameters": {}}])"));
  EXPECT_FALSE(admits(job, R"([{"name": "sub", "parameters": {"a": 5}}])"));
}

TEST(ForcedCalls, AreOneWhenTheClientWantsOneOrNamesIt) {
  const std::string one = R"([{"name": "add", "parameters": {"a": 5}}])";
  const std::string two = R"([{"name": "add", "parameters": {"a": 5}}, {"name": "add", "parameters": {"a": 6}}])";
  const std::string other = R"([{"name": "stop now", "parameters": {}}])";
  const Job single = chat(std::string(kTools) + R"(, "tool_choice": "required", "parallel_tool_calls": false)");
  EXPECT_TRUE(admits(single, one));
  EXPECT_TRUE(admits(single, other));
  EXPECT_FALSE(admits(single, two));
  for (const char* choice : {R"({"type": "function", "function": {"name": "add"}})", R"({"name": "add"})"}) {
    const Job named = chat(std::string(kTools) + R"(, "tool_choice": )" + choice);
    EXPECT_TRUE(admits(named, one));
    EXPECT_FALSE(admits(named, two));
    EXPECT_FALSE(admits(named, other));
  }
}

TEST(ForcedCalls, AreOfTheAllowedToolsAlone) {
  const std::string add = R"([{"name": "add", "parameters": {"a": 5}}])";
  const std::string other = R"([{"name": "stop now", "parameters": {}}])";
  const std::string tools = R"("tools": [{"type": "function", "function": {"name": "add"}}])";
  for (const std::string& choice :
       {R"({"type": "allowed_tools", "allowed_tools": {"mode": "required", )" + tools + "}}",
        std::string(
            R"({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]})")}) {
    const Job job = chat(std::string(kTools) + R"(, "tool_choice": )" + choice);
    EXPECT_TRUE(admits(job, add));
    EXPECT_FALSE(admits(job, other));
    EXPECT_NE(prompt_of(job).find("\"add\""), std::string::npos);
    EXPECT_EQ(prompt_of(job).find("stop now"), std::string::npos) << "the model does not see the others";
  }
  const Job free =
      chat(std::string(kTools) + R"(, "tool_choice": {"type": "allowed_tools", "allowed_tools": {)" + tools + "}}");
  EXPECT_TRUE(free.grammars.empty());
  EXPECT_EQ(prompt_of(free).find("stop now"), std::string::npos);
}

TEST(ForcedCalls, ToolsNeedNoType) {
  const Job job = chat(R"(, "tools": [{"function": {"name": "f"}}], "tool_choice": "required")");
  EXPECT_TRUE(admits(job, R"([{"name": "f", "parameters": {}}])"));
  EXPECT_NE(prompt_of(job).find(R"({"type":"function","function":{"name":"f"}})"), std::string::npos) << prompt_of(job);
}

// Nobody demanded that they be held.
TEST(ForcedCalls, OfToolsThatAreNotStrictTakeAnyObjectWhereTheirParametersCannotBeHeld) {
  for (const char* parameters : {R"({"type": "object", "properties": {"ids": {"type": "array", "uniqueItems": true}}})",
                                 R"({"not": {}})", R"({"type": "string"})", R"({"anyOf": []})",
                                 R"({"$ref": "#/nowhere"})", R"({"properties": {"a": {"pattern": "(?<!x)y"}}})"}) {
    const std::string tools = fmt::format(R"(, "tool_choice": "required", "tools": [
        {{"type": "function", "function": {{"name": "free", "parameters": {}}}}},
        {{"type": "function", "function": {{"name": "held", "parameters": {{"properties": {{"n": {{"type": "integer"}}}},
          "required": ["n"]}}}}}}])",
                                          parameters);
    const Job job = chat(tools);
    EXPECT_TRUE(admits(job, R"([{"name": "free", "parameters": {"ids": [1, 1]}}])")) << parameters;
    EXPECT_FALSE(admits(job, R"([{"name": "free", "parameters": 5}])")) << parameters;
    EXPECT_FALSE(admits(job, R"([{"name": "held", "parameters": {"n": "x"}}])")) << parameters;

    std::string strict = tools;
    strict.insert(strict.find("\"name\": \"free\""), "\"strict\": true, ");
    const auto parsed = parse_chat(R"({"messages": [{"role": "user", "content": "hi"}])" + strict + "}", fake_model());
    ASSERT_TRUE(std::holds_alternative<ApiError>(parsed)) << parameters;
    EXPECT_EQ(std::get<ApiError>(parsed).status, 400);
  }
}

TEST(ForcedCalls, ComeAsToolCallsInTheFormOfTheModelsIds) {
  constexpr std::string_view kText =
      R"([{"name": "add", "parameters": {"a": 5}}, {"name": "stop now", "parameters": {}}])";
  for (const bool thinking : {false, true}) {
    Job job =
        chat(std::string(kTools) + R"(, "tool_choice": "required")", model_with("kimi_k2", thinking ? "kimi_k2" : ""));
    const Json choice = Json::parse(play(job, (thinking ? "Hm.</think>" : "") + std::string(kText), 3))["choices"][0];
    EXPECT_EQ(choice["finish_reason"], "tool_calls");
    EXPECT_TRUE(choice["message"]["content"].is_null());
    EXPECT_EQ(choice["message"]["reasoning_content"], thinking ? Json("Hm.") : Json(nullptr));
    const Json& calls = choice["message"]["tool_calls"];
    ASSERT_EQ(calls.size(), 2u);
    EXPECT_EQ(calls[0]["id"], "functions.add:0");
    EXPECT_EQ(calls[0]["function"]["name"], "add");
    EXPECT_EQ(Json::parse(calls[0]["function"]["arguments"].get<std::string>()), Json({{"a", 5}}));
    EXPECT_EQ(calls[1]["function"]["name"], "stop now");
  }
}

TEST(ForcedCalls, NeedNoParserOfTheModel) {
  Job job = chat(std::string(kTools) + R"(, "tool_choice": "required", "separate_reasoning": false)");
  const Json choice = Json::parse(play(job, R"([{"name": "add", "parameters": {"a": 5}}])", 4))["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_TRUE(choice["message"]["tool_calls"][0]["id"].get<std::string>().starts_with("call_"));
}

Job message(std::string_view members) {
  return job_of(parse_messages(
      fmt::format(R"({{"max_tokens": 9, "messages": [{{"role": "user", "content": "hi"}}]{}}})", members),
      fake_model()));
}

TEST(ForcedCalls, AreAnthropicsAnyAndTool) {
  const std::string tools = R"(, "tools": [{"name": "f", "input_schema": {"type": "object"}},
                                           {"name": "g", "input_schema": {"type": "object"}}])";
  const std::string f = R"({"name": "f", "parameters": {}})", g = R"({"name": "g", "parameters": {"x": 1}})";
  const Job any = message(tools + R"(, "tool_choice": {"type": "any"})");
  EXPECT_TRUE(admits(any, "[" + f + ", " + g + "]"));
  const Job one = message(tools + R"(, "tool_choice": {"type": "any", "disable_parallel_tool_use": true})");
  EXPECT_TRUE(admits(one, "[" + g + "]"));
  EXPECT_FALSE(admits(one, "[" + f + ", " + g + "]"));
  Job named = message(tools + R"(, "tool_choice": {"type": "tool", "name": "g"})");
  EXPECT_FALSE(admits(named, "[" + f + "]"));

  const Json answer = Json::parse(play(named, "[" + g + "]", 5));
  EXPECT_EQ(answer["stop_reason"], "tool_use");
  ASSERT_EQ(answer["content"].size(), 1u);
  EXPECT_EQ(answer["content"][0]["name"], "g");
  EXPECT_EQ(answer["content"][0]["input"], Json({{"x", 1}}));
}

// One strict tool, one that is not.
constexpr std::string_view kStrictTools = R"(, "tools": [
    {"type": "function", "function": {"name": "add", "strict": true, "parameters": {"type": "object",
      "properties": {"n": {"type": "integer"}, "how": {"enum": ["up", "down"]}, "text": {"type": "string"}},
      "required": ["n"], "additionalProperties": false}}},
    {"type": "function", "function": {"name": "free", "parameters": {"type": "object",
      "properties": {"n": {"type": "integer"}}}}}])";

// A call as the family's template writes it: of `name` with n.
struct Family {
  const char* parser;
  const char* begin;  // before the first call
  const char* call;   // {0}: name, {1}: n, {2}: which call
  const char* between;
  const char* end;
};

constexpr Family kFamilies[] = {
    {"qwen3_coder", "", "<tool_call>\n<function={0}>\n<parameter=n>\n{1}\n</parameter>\n</function>\n</tool_call>",
     "\n", ""},
    {"hermes", "", "<tool_call>\n{{\"name\": \"{0}\", \"arguments\": {{\"n\": {1}}}}}\n</tool_call>", "\n", ""},
    {"kimi_k2", "<|tool_calls_section_begin|>",
     "<|tool_call_begin|>functions.{0}:{2}<|tool_call_argument_begin|>{{\"n\": {1}}}<|tool_call_end|>", "",
     "<|tool_calls_section_end|>"},
    {"deepseekv32", "<｜DSML｜function_calls>\n",
     "<｜DSML｜invoke name=\"{0}\">\n<｜DSML｜parameter name=\"n\" string=\"false\">{1}</｜DSML｜parameter>\n"
     "</｜DSML｜invoke>",
     "\n", "\n</｜DSML｜function_calls>"},
    {"deepseekv31", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>{0}<｜tool▁sep｜>{{\"n\": {1}}}<｜tool▁call▁end｜>",
     "", "<｜tool▁calls▁end｜>"},
    {"deepseekv3", "<｜tool▁calls▁begin｜>",
     "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{0}\n```json\n{{\"n\": {1}}}\n```<｜tool▁call▁end｜>", "\n",
     "<｜tool▁calls▁end｜>"},
};

struct WrittenCall {
  const char* name;
  const char* n;
};

std::string written(const Family& family, const std::vector<WrittenCall>& calls) {
  std::string text = family.begin;
  for (size_t i = 0; i < calls.size(); ++i) {
    if (i > 0) text += family.between;
    text += fmt::format(fmt::runtime(family.call), calls[i].name, calls[i].n, i);
  }
  return text + family.end;
}

TEST(StrictCalls, HoldWhatTheModelCallsInItsOwnForm) {
  for (const Family& family : kFamilies) {
    SCOPED_TRACE(family.parser);
    Job job = chat(kStrictTools, model_with(family.parser, ""));
    ASSERT_EQ(job.grammars.size(), 1u);
    EXPECT_EQ(job.grammars[0].param, "tools");
    const std::string good = written(family, {{"add", "5"}});
    EXPECT_TRUE(admits(job, "No call at all, not even <b>."));
    EXPECT_TRUE(admits(job, good));
    EXPECT_TRUE(admits(job, "I add.\n" + good));
    EXPECT_TRUE(admits(job, written(family, {{"add", "5"}, {"free", "1"}, {"add", "-6"}})));
    EXPECT_FALSE(admits(job, written(family, {{"add", "five"}})));
    EXPECT_FALSE(admits(job, written(family, {{"add", "5"}, {"add", "x"}})));
    EXPECT_FALSE(admits(job, written(family, {{"sub", "5"}})));
    EXPECT_FALSE(admits(job, good.substr(0, good.size() / 2)));

    const Json choice = Json::parse(play(job, written(family, {{"add", "5"}, {"free", "1"}}), 3))["choices"][0];
    EXPECT_EQ(choice["finish_reason"], "tool_calls");
    ASSERT_EQ(choice["message"]["tool_calls"].size(), 2u);
    EXPECT_EQ(Json::parse(choice["message"]["tool_calls"][0]["function"]["arguments"].get<std::string>()),
              Json({{"n", 5}}));
  }
}

TEST(StrictCalls, LeaveOtherToolsAsTheyAre) {
  for (const Family& family : kFamilies) {
    SCOPED_TRACE(family.parser);
    const Job job = chat(kStrictTools, model_with(family.parser, ""));
    EXPECT_TRUE(admits(job, written(family, {{"free", "\"five\""}})));
    EXPECT_TRUE(admits(job, written(family, {{"free", "1"}, {"add", "2"}})));
    EXPECT_FALSE(admits(job, written(family, {{"free", "1"}, {"add", "two"}})));
  }
  EXPECT_TRUE(chat(kTools, model_with("qwen3_coder", "")).grammars.empty());
}

TEST(StrictCalls, CannotBeHadWithoutTheBeginningThatIsHeld) {
  for (const Family& family : kFamilies) {
    SCOPED_TRACE(family.parser);
    const Job job = chat(kStrictTools, model_with(family.parser, ""));
    std::string headless = written(family, {{"add", "five"}});
    headless.erase(0, *family.begin ? std::string_view(family.begin).size() : sizeof("<tool_call>\n") - 1);
    EXPECT_EQ(admits(job, headless), std::string_view(family.parser) == "hermes");  // where that is only text
  }
}

TEST(StrictCalls, HoldEveryKindOfValue) {
  const auto call = [](std::string_view rest) {
    return fmt::format("<tool_call>\n<function=add>\n<parameter=n>\n5\n</parameter>\n{}</function>\n</tool_call>",
                       rest);
  };
  const Job job = chat(kStrictTools, model_with("qwen3_coder", ""));
  EXPECT_TRUE(admits(job, call("<parameter=how>\nup\n</parameter>\n")));
  EXPECT_TRUE(admits(job, call("<parameter=text>\n  two\nlines <b>\n\n</parameter>\n")));
  EXPECT_TRUE(admits(job, call("<parameter=how>\nup\n</parameter>\n<parameter=text>\n\n</parameter>\n")));
  EXPECT_FALSE(admits(job, call("<parameter=how>\nsideways\n</parameter>\n")));
  EXPECT_FALSE(admits(job, call("<parameter=how>\n up\n</parameter>\n")));  // the space would be part of the value
  EXPECT_FALSE(admits(job, call("<parameter=where>\nhere\n</parameter>\n")));
}

// A tool f with the one parameter p.
std::string tool_with(std::string_view schema) {
  return fmt::format(R"(, "tools": [{{"type": "function", "function": {{"name": "f", "strict": true, "parameters":
      {{"type": "object", "properties": {{"p": {}}}, "required": ["p"]}}}}}}])",
                     schema);
}

TEST(StrictCalls, HoldTextAndJsonInTags) {
  struct Case {
    const char* schema;
    std::vector<const char*> yes, no;
  };
  for (const Case& c : {
           Case{R"({"type": "string", "minLength": 2})", {"ab", "a\nb"}, {"a", "", "ab</parameter>\n<parameter=p>x"}},
           Case{R"({"type": "string", "pattern": "^[0-9]+$"})", {"123"}, {"12x", "\"1\""}},
           Case{R"({"enum": ["red", "light blue", 5]})", {"red", "5"}, {"blue", "\"red\""}},
           Case{R"({"type": ["string", "null"], "maxLength": 3})", {"abc", "null"}, {"a longer one"}},
           Case{R"({"type": "array", "items": {"type": "integer"}})",
                {"[1, 2]", "[\n  1\n]"},
                {"[\t1]", "[\"a\"]", "1"}},
           Case{R"({"anyOf": [{"type": "integer", "minimum": 3}, {"type": "null"}]})", {"3", "null"}, {"2", "x"}},
       }) {
    const Job job = chat(tool_with(c.schema), model_with("qwen3_coder", ""));
    const auto call = [](std::string_view value) {
      return fmt::format("<tool_call>\n<function=f>\n<parameter=p>\n{}\n</parameter>\n</function>\n</tool_call>",
                         value);
    };
    for (const char* value : c.yes) EXPECT_TRUE(admits(job, call(value))) << c.schema << value;
    for (const char* value : c.no) EXPECT_FALSE(admits(job, call(value))) << c.schema << value;
    EXPECT_FALSE(admits(job, call("").insert(std::string_view("<tool_call>\n<function=f>\n").size(), "\n\t")));
  }
}

// Where the types of a parameter decide whether its value is text or JSON, a string may read like another value.
TEST(StrictCalls, AreRefusedWhereTextCouldPassForAValueThatIsNotHeld) {
  for (const char* schema : {R"({"type": ["string", "integer"], "minimum": 10})", R"({"enum": ["<b>"]})"}) {
    const auto parsed = parse_chat(R"({"messages": [{"role": "user", "content": "hi"}])" + tool_with(schema) + "}",
                                   model_with("qwen3_coder", ""));
    ASSERT_TRUE(std::holds_alternative<ApiError>(parsed)) << schema;
    EXPECT_EQ(std::get<ApiError>(parsed).param, "tools[0].function.parameters");
  }
  const Job told = chat(tool_with(R"({"type": ["string", "integer"], "minimum": 10})"), model_with("deepseekv32", ""));
  const auto call = [](std::string_view string, std::string_view value) {
    return fmt::format(
        "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"p\" string=\"{}\">{}"
        "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        string, value);
  };
  EXPECT_TRUE(admits(told, call("true", "5")));
  EXPECT_TRUE(admits(told, call("false", "15")));
  EXPECT_FALSE(admits(told, call("false", "5")));
}

TEST(StrictCalls, AreHeldInReasoningToo) {
  const Job job = chat(kStrictTools, model_with("qwen3_coder", "qwen3"));
  EXPECT_TRUE(admits(job, "Add?</think>\n\n" + written(kFamilies[0], {{"add", "5"}})));
  EXPECT_TRUE(admits(job, "Add?</think>\n\nNo."));
  EXPECT_FALSE(admits(job, "Add?</think>\n\n" + written(kFamilies[0], {{"add", "x"}})));
  EXPECT_FALSE(admits(job, "Add? " + written(kFamilies[0], {{"add", "x"}})));
}

TEST(StrictCalls, AreOneWhereTheClientWantsOne) {
  for (const Family& family : kFamilies) {
    SCOPED_TRACE(family.parser);
    for (const std::string_view tools : {kStrictTools, kTools}) {
      const Job job = chat(std::string(tools) + R"(, "parallel_tool_calls": false)", model_with(family.parser, ""));
      EXPECT_TRUE(admits(job, "One: " + written(family, {{"add", "5"}})));
      EXPECT_FALSE(admits(job, written(family, {{"add", "5"}, {"add", "6"}})));
      EXPECT_FALSE(admits(job, written(family, {{"add", "5"}}) + written(family, {{"add", "6"}})));
    }
  }
}

TEST(StrictCalls, NeedAParserOfTheModelsCalls) {
  for (const char* parser : {"", "json_array"}) {
    const auto parsed =
        parse_chat(fmt::format(R"({{"messages": [{{"role": "user", "content": "hi"}}]{}}})", kStrictTools),
                   model_with(parser, ""));
    ASSERT_TRUE(std::holds_alternative<ApiError>(parsed));
    EXPECT_EQ(std::get<ApiError>(parsed).param, "tools");
    EXPECT_NE(std::get<ApiError>(parsed).message.find("--tool-call-parser"), std::string::npos);
  }
}

TEST(FormBesideTools, IsHeldUnlessTheModelCalls) {
  const std::string form = fmt::format(R"(, "json_schema": {})", kRain);
  for (const Family& family : kFamilies) {
    for (const std::string_view tools : {kStrictTools, kTools}) {
      SCOPED_TRACE(family.parser);
      const Job job = chat(std::string(tools) + form, model_with(family.parser, ""));
      EXPECT_EQ(job.grammars[0].param, "json_schema");
      EXPECT_TRUE(admits(job, R"({"rain": true})"));
      EXPECT_TRUE(admits(job, written(family, {{"add", "5"}})));
      EXPECT_TRUE(admits(job, written(family, {{"add", "5"}, {"add", "6"}})));
      EXPECT_EQ(admits(job, written(family, {{"add", "\"x\""}})), tools == kTools);
      EXPECT_FALSE(admits(job, R"({"rain": 1})"));
      EXPECT_FALSE(admits(job, "I add." + written(family, {{"add", "5"}})));
      EXPECT_FALSE(admits(job, R"({"rain": true})" + written(family, {{"add", "5"}})));
    }
  }
}

TEST(FormBesideTools, BeginsBehindTheReasoning) {
  const Job job =
      chat(std::string(kTools) + fmt::format(R"(, "json_schema": {})", kRain), model_with("qwen3_coder", "qwen3"));
  EXPECT_TRUE(admits(job, "Rain?</think>\n\n{\"rain\": true}"));
  EXPECT_TRUE(admits(job, "Rain?</think>\n\n" + written(kFamilies[0], {{"add", "5"}})));
  EXPECT_FALSE(admits(job, "Rain? " + written(kFamilies[0], {{"add", "5"}}) + "</think>{\"rain\": true}"));
  EXPECT_FALSE(admits(job, "Rain?</think>\n\nNo."));
}

TEST(FormBesideTools, HoldsNothingWhereTheAnswerIsCalls) {
  const Job job = chat(std::string(kTools) + fmt::format(R"(, "tool_choice": "required", "json_schema": {})", kRain));
  EXPECT_TRUE(admits(job, R"([{"name": "add", "parameters": {"a": 5}}])"));
  EXPECT_FALSE(admits(job, R"({"rain": true})"));
  EXPECT_TRUE(admits(chat(std::string(kTools) + fmt::format(R"(, "tool_choice": "none", "json_schema": {})", kRain)),
                     R"({"rain": true})"));
}

TEST(Structured, ReadsAnthropicsOutputFormat) {
  for (const char* member : {R"(, "output_format": )", R"(, "output_config": {"effort": "low", "format": )"}) {
    const bool config = std::string_view(member).ends_with("\"format\": ");
    const Job job =
        message(member + fmt::format(R"({{"type": "json_schema", "schema": {}}})", kRain) + (config ? "}" : ""));
    EXPECT_TRUE(admits(job, R"({"rain": true})"));
    EXPECT_FALSE(admits(job, "It rains."));
  }
}

TEST(StrictCalls, AreAnthropicsToo) {
  ServedModel model = model_with("hermes", "");
  const Job job = job_of(parse_messages(
      R"({"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "f", "strict": true,
          "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}]})",
      model));
  EXPECT_TRUE(admits(job, written(kFamilies[1], {{"f", "5"}})));
  EXPECT_FALSE(admits(job, written(kFamilies[1], {{"f", "\"5\""}})));
}

}  // namespace
}  // namespace kt
