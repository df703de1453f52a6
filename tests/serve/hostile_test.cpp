#include <gtest/gtest.h>

#include <ctime>

#include "runtime/serve/openai/openai_chat.h"
#include "runtime/serve/openai/openai_completions.h"
#include "runtime/serve/sglang/generate.h"
#include "tests/serve/fakes.h"

namespace kt {
namespace {

struct Case {
  std::string member;  // put into an otherwise good body
  std::string param;   // the field that the answer has to name
};

std::string chat_body(const std::string& member) {
  return R"({"messages": [{"role": "user", "content": "hi"}])" + (member.empty() ? "" : ", " + member) + "}";
}

// Schemas each of which leads to the next one twice.
std::string fan_out(int count) {
  std::string out;
  for (int i = 0; i < count; ++i)
    out += fmt::format(R"("a{0}": {{"allOf": [{{"$ref": "#/$defs/a{1}"}}, {{"$ref": "#/$defs/a{1}"}}]}}, )", i, i + 1);
  return out;
}

std::string repeat(const std::string& text, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += text;
  return all;
}

// Of this process, whose only thread runs the test: work is bounded, however busy the machine is.
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// To refuse a request; instrumented code takes several times as long.
#if defined(__SANITIZE_THREAD__)
constexpr double kMostSeconds = 5;
#elif defined(__SANITIZE_ADDRESS__)
constexpr double kMostSeconds = 1;
#else
constexpr double kMostSeconds = 0.1;
#endif

TEST(Hostile, ChatNumbersOutOfRangeAreRefusedByName) {
  const std::vector<Case> cases = {
      {R"("temperature": -0.1)", "temperature"},
      {R"("temperature": 1e308)", "temperature"},
      {R"("temperature": "0.5")", "temperature"},
      {R"("temperature": true)", "temperature"},
      {R"("temperature": [])", "temperature"},
      {R"("temperature": 100000000000000000000000000)", "temperature"},
      {R"("top_p": 0)", "top_p"},
      {R"("top_p": 1.0001)", "top_p"},
      {R"("top_p": -1)", "top_p"},
      {R"("top_k": -2)", "top_k"},
      {R"("top_k": 1.5)", "top_k"},
      {R"("top_k": 99999999999)", "top_k"},
      {R"("top_k": 18446744073709551615)", "top_k"},
      {R"("top_k": 18446744073709551616)", "top_k"},
      {R"("min_p": 1.1)", "min_p"},
      {R"("min_p": -0.1)", "min_p"},
      {R"("frequency_penalty": 2.1)", "frequency_penalty"},
      {R"("presence_penalty": -2.1)", "presence_penalty"},
      {R"("repetition_penalty": 0)", "repetition_penalty"},
      {R"("repetition_penalty": 2.5)", "repetition_penalty"},
      {R"("n": 0)", "n"},
      {R"("n": 129)", "n"},
      {R"("n": 2, "best_of": 1)", "best_of"},
      {R"("n": 2, "best_of": 3)", "best_of"},
      {R"("stream_interval": 0)", "stream_interval"},
      {R"("truncate_prompt_tokens": 0)", "truncate_prompt_tokens"},
      {R"("truncation_side": "middle")", "truncation_side"},
      {R"("n": -1)", "n"},
      {R"("n": 1e9)", "n"},
      {R"("n": "2")", "n"},
      {R"("max_tokens": 0)", "max_tokens"},
      {R"("max_tokens": -5)", "max_tokens"},
      {R"("max_completion_tokens": 0)", "max_completion_tokens"},
      {R"("max_tokens": 2147483648)", "max_tokens"},
      {R"("max_tokens": 5, "min_tokens": 6)", "min_tokens"},
      {R"("min_tokens": -1)", "min_tokens"},
      {R"("seed": 18446744073709551616)", "seed"},
      {R"("seed": -9223372036854775809)", "seed"},
      {R"("seed": 1.5)", "seed"},
      {R"("seed": "7")", "seed"},
      {R"("logprobs": 1)", "logprobs"},
      {R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"},
      {R"("logprobs": true, "top_logprobs": -1)", "top_logprobs"},
      {R"("top_logprobs": 5)", "top_logprobs"},
      {R"("logit_bias": {"260": 1})", "logit_bias"},
      {R"("logit_bias": {"-1": 1})", "logit_bias"},
      {R"("logit_bias": {"a": 1})", "logit_bias"},
      {R"("logit_bias": {"5x": 1})", "logit_bias"},
      {R"("logit_bias": {"": 1})", "logit_bias"},
      {R"("logit_bias": {"5": "1"})", "logit_bias.5"},
      {R"("logit_bias": {"5": 1e300})", "logit_bias.5"},
      {R"("logit_bias": [1])", "logit_bias"},
      {R"("stop": "")", "stop"},
      {R"("stop_regex": "")", "stop_regex"},
      {R"("stop_regex": 5)", "stop_regex"},
      {R"("stop_regex": ["a", 1])", "stop_regex"},
      {R"("stop_regex": "(")", "stop_regex"},
      {R"("stop_regex": "^a")", "stop_regex"},
      {R"("stop_regex": "\\bword")", "stop_regex"},
      {R"("stop_regex": "(a)\\1")", "stop_regex"},
      {R"("stop_regex": "a*")", "stop_regex"},
      {R"("stop_regex": ")" + std::string(1025, 'a') + "\"", "stop_regex"},
      {R"("stop_regex": ".{1,257}")", "stop_regex"},
      {R"("stop_regex": "(a?){250}b")", "stop_regex"},
      {R"("stop_regex": ["a{128}", "b{129}"])", "stop_regex"},
      {R"("stop_regex": [)" + repeat("\"a\",", 16) + R"("a"])", "stop_regex"},
      {R"("stop": [1])", "stop"},
      {R"("stop": {"a": 1})", "stop"},
      {R"("stop": ")" + std::string(257, 'x') + "\"", "stop"},
      {R"("stop": [)" + repeat("\"a\",", 16) + R"("a"])", "stop"},
      {R"("stop_token_ids": [260])", "stop_token_ids"},
      {R"("stop_token_ids": [-1])", "stop_token_ids"},
      {R"("stop_token_ids": 5)", "stop_token_ids"},
      {R"("stream": 1)", "stream"},
      {R"("stream": "true")", "stream"},
      {R"("stream_options": 5)", "stream_options"},
      {R"("stream_options": {"include_usage": "yes"})", "stream_options.include_usage"},
      {R"("model": 5)", "model"},
      {R"("model": ")" + std::string(2000, 'm') + "\"", "model"},
      {R"("rid": ")" + std::string(300, 'r') + "\"", "rid"},
      {R"("ignore_eos": "no")", "ignore_eos"},
      {R"("priority": 1e99)", "priority"},
      {R"("timeout": 0)", "timeout"},
      {R"("timeout": -1)", "timeout"},
      {R"("timeout": "1")", "timeout"},
      {R"("cache_salt": 1)", "cache_salt"},
      {R"("cache_salt": ")" + std::string(1025, 's') + "\"", "cache_salt"},
      {R"("extra_key": [])", "extra_key"},
      {R"("response_format": {"type": "json_schema"})", "response_format.schema"},
      {R"("response_format": {"type": "json_schema", "json_schema": {}})", "response_format.json_schema.schema"},
      {R"("response_format": {"type": "json_schema", "json_schema": 5})", "response_format.json_schema"},
      {R"("response_format": {"type": "json_schema", "json_schema": {"schema": true}})",
       "response_format.json_schema.schema"},
      {R"("response_format": {"type": "yaml"})", "response_format.type"},
      {R"("response_format": {"type": "structural_tag"})", "response_format"},
      {R"("response_format": {"type": "structural_tag", "structures": [{"begin": "<"}], "triggers": ["<"]})",
       "response_format.structures[0]"},
      {R"("structural_tag": {"format": {"type": "or", "elements": [{"type": "regex", "pattern": "a{999}"}]}})",
       "structural_tag.format.elements[0].pattern"},
      {R"("structural_tag": {"format": {"type": "repeat", "min": 1000000, "max": -1}})", "structural_tag.format.min"},
      {R"("structural_tag": {"format": {"type": "json_schema", "json_schema": {"not": {}}}})",
       "structural_tag.format.json_schema"},
      {R"("response_format": {"type": "json_object"}, "regex": "a")", "regex"},
      {R"("json_schema": {"type": "object"}, "ebnf": "root ::= \"a\"")", "ebnf"},
      {R"("regex": "a", "messages": [{"role": "assistant", "content": "x"}], "continue_final_message": true)", "regex"},
      {R"("response_format": "text")", "response_format"},
      {R"("response_format": {})", "response_format.type"},
      {R"("regex": 5)", "regex"},
      {R"("regex": ")" + std::string(1025, 'a') + "\"", "regex"},
      {R"("regex": ".{0,257}")", "regex"},
      {R"("regex": "((a{9}){9}){9}")", "regex"},
      {R"("regex": "a{99999999999999999999}")", "regex"},
      {R"("regex": ")" + repeat("(a{99}", 99) + repeat("){99}", 99) + "\"", "regex"},
      {R"("ebnf": "root ::= [a-z]{1,1000}")", "ebnf"},
      {R"("json_schema": {"type": "string", "pattern": "a{300}"})", "json_schema.pattern"},
      {R"("json_schema": {"patternProperties": {"(ab){150}": {}}})", "json_schema.patternProperties"},
      {R"("ebnf": {})", "ebnf"},
      {R"("json_schema": "{")", "json_schema"},
      {R"("json_schema": "[]")", "json_schema"},
      {R"("json_schema": ")" + repeat("[", 60000) + "\"", "json_schema"},
      {R"("json_schema": {"a": )" + repeat("[", 40) + repeat("]", 40) + "}", "json_schema"},
      {R"("json_schema": {"enum": [")" + std::string(70000, 'e') + R"("]})", "json_schema"},
      {R"("json_schema": {"not": {"type": "string"}})", "json_schema"},
      {R"("json_schema": {"properties": {"a": {"anyOf": [{"if": {}}]}}})", "json_schema.properties.a.anyOf[0]"},
      {R"("json_schema": {"type": "array", "uniqueItems": true})", "json_schema"},
      {R"("json_schema": {"anyOf": [{"contains": {}}], "properties": {}})", "json_schema.anyOf[0]"},
      {R"("json_schema": {"$ref": "#"})", "json_schema"},
      {R"("json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}})",
       "json_schema.$defs.a"},
      {R"("json_schema": {"$ref": "#/$defs/%zz", "$defs": {}})", "json_schema.$ref"},
      {R"("json_schema": {"$ref": "https://example.org/schema"})", "json_schema"},
      {R"("json_schema": {"anyOf": [)" + repeat(R"({"minLength": 1}, )", 40) + R"({"enum": ["a", "b"]}], "allOf": [
            {"anyOf": [)" +
           repeat(R"({"maxLength": 9}, )", 40) + R"({"minimum": 1}]}]})",
       "json_schema"},
      {R"("json_schema": {"$ref": "#/$defs/a0", "$defs": {)" + fan_out(30) + R"("a30": {}}})", "json_schema.$defs.a29"},
      {R"("json_schema": {"type": "string", "const": 1})", "json_schema"},
      {R"("json_schema": {"type": "integer", "minimum": "1"})", "json_schema.minimum"},
      {R"("json_schema": {"required": "a"})", "json_schema.required"},
      {R"("json_schema": {"type": ["string", "strnig"]})", "json_schema.type"},
      {R"x("json_schema": {"pattern": "(?=a)"})x", "json_schema"},
      {R"("json_schema": {"pattern": ")" + repeat("(", 300) + R"("})", "json_schema"},
      {R"("json_schema": {"format": "idn-email"})", "json_schema"},
      {R"("structural_tag": {"format": {"type": "json_schema", "json_schema": {}, "style": "qwen_xml"}})",
       "structural_tag.format.style"},
      {R"("structural_tag": {"format": {"type": "json_schema", "json_schema": {}, "any_order": true}})",
       "structural_tag.format.any_order"},
      {R"("response_format": {"type": "json_object", "schema": {"type": "array"}})", "response_format.schema"},
      {R"("guided_json": {})", "guided_json"},
      {R"("tool_choice": "required")", "tool_choice"},
      {R"("tool_choice": "always")", "tool_choice"},
      {R"("tool_choice": {"type": "function", "function": {"name": "f"}})", "tool_choice"},
      {R"("tool_choice": {"type": "function"})", "tool_choice"},
      {R"("tool_choice": {"type": "function", "function": 5})", "tool_choice.function"},
      {R"("tool_choice": 5)", "tool_choice"},
      {R"("tools": [{"function": {"name": "f"}}], "tool_choice": {"type": "allowed_tools"})", "tool_choice.tools"},
      {R"("tools": [{"function": {"name": "f"}}], "tool_choice": {"type": "allowed_tools", "tools": [{"name": "g"}]})",
       "tool_choice"},
      {R"("tool_choice": {"type": "allowed_tools", "tools": [{"name": "g"}], "mode": "no"})", "tool_choice.mode"},
      {R"("tools": [], "tool_choice": "required")", "tool_choice"},
      {R"("tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": {"name": "g"})", "tool_choice"},
      {R"("tools": [{"type": "function", "function": {"name": "f"}}], "regex": "a")", "regex"},
      {R"("tools": {})", "tools"},
      {R"("tools": [5])", "tools[0]"},
      {R"("tools": [{"type": "code"}])", "tools[0].type"},
      {R"("tools": [{"type": "function"}])", "tools[0].function"},
      {R"("tools": [{"type": "function", "function": {}}])", "tools[0].function.name"},
      {R"("tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}])",
       "tools[0].function.parameters"},
      {R"("reasoning_effort": "enormous")", "reasoning_effort"},
      {R"("reasoning_effort": 3)", "reasoning_effort"},
      {R"("chat_template_kwargs": [])", "chat_template_kwargs"},
      {R"("chat_template_kwargs": {"messages": []})", "chat_template_kwargs.messages"},
      {R"("continue_final_message": true)", "continue_final_message"},
      {R"("messages": 5)", "messages"},
      {R"("messages": [])", "messages"},
      {R"("messages": null)", "messages"},
      {R"("messages": [5])", "messages[0]"},
      {R"("messages": [{"content": "x"}])", "messages[0].role"},
      {R"("messages": [{"role": "user"}])", "messages[0].content"},
      {R"("messages": [{"role": "user", "content": null}])", "messages[0].content"},
      {R"("messages": [{"role": "user", "content": 5}])", "messages[0].content"},
      {R"("messages": [{"role": "user", "content": [{"type": "text"}]}])", "messages[0].content[0].text"},
      {R"("messages": [{"role": "assistant", "tool_calls": 5}])", "messages[0].tool_calls"},
      {R"("messages": [{"role": "assistant", "tool_calls": [5]}])", "messages[0].tool_calls[0]"},
      {R"("messages": [{"role": "user", "content": [[]]}])", "messages[0].content[0]"},
      {R"("messages": [{"role": 5, "content": "x"}])", "messages[0].role"},
      {R"("messages": [)" + repeat(R"({"role": "user", "content": "x"},)", 8192) +
           R"({"role": "user", "content": "x"}])",
       "messages"},
  };
  const ServedModel model = fake_model();
  for (const Case& c : cases) {
    const double start = cpu_seconds();
    const auto parsed = parse_chat(chat_body(c.member), model);
    const double took = cpu_seconds() - start;

    const ApiError* error = std::get_if<ApiError>(&parsed);
    ASSERT_TRUE(error) << c.member.substr(0, 100);
    EXPECT_EQ(error->status, 400);
    EXPECT_EQ(error->param, c.param) << error->message;
    EXPECT_LT(took, kMostSeconds) << c.member.substr(0, 100);
  }
}

TEST(Hostile, BodiesThatAreNotOneJsonObjectAreRefused) {
  const ServedModel model = fake_model();
  const std::vector<std::string> bodies = {
      "",
      "{",
      "[]",
      "5",
      "null",
      "{} {}",
      chat_body(R"("temperature": NaN)"),
      chat_body(R"("temperature": Infinity)"),
      chat_body(R"("temperature": -Infinity)"),
      chat_body(R"("temperature": 1e999)"),
      chat_body(R"("temperature": 01)"),
      chat_body(R"("x": "\ud800")"),
      chat_body("\"x\": \"\xff\""),
      chat_body(R"("x": )" + repeat("[", 100000)),
      chat_body(R"("x": )" + repeat("[", 64) + repeat("]", 64)),
      chat_body(R"("x": )" + repeat(R"({"a":)", 100000)),
  };
  for (const std::string& body : bodies) {
    const auto parsed = parse_chat(body, model);
    const ApiError* error = std::get_if<ApiError>(&parsed);
    ASSERT_TRUE(error) << body.substr(0, 100);
    EXPECT_EQ(error->code, "invalid_json") << error->message;
  }
}

TEST(Hostile, ManyMembersCostNoMoreThanTheirNumber) {
  const auto seconds = [](int members) {
    std::string body = R"({"messages": [{"role": "user", "content": "hi"}])";
    for (int i = 0; i < members; ++i) body += ", \"k" + std::to_string(i) + "\": 1";
    body += "}";
    const double start = cpu_seconds();
    const auto parsed = parse_chat(body, fake_model());
    EXPECT_TRUE(std::holds_alternative<Job>(parsed));  // unknown members are ignored
    return cpu_seconds() - start;
  };
  EXPECT_LT(seconds(200000), 10 * seconds(50000));  // quadratic: 16
}

TEST(Hostile, CompletionPromptsAndNumbersAreChecked) {
  const std::vector<Case> cases = {
      {R"("prompt": "")", "prompt"},
      {R"("prompt": [])", "prompt"},
      {R"("prompt": 5)", "prompt"},
      {R"("prompt": {})", "prompt"},
      {R"("prompt": null)", "prompt"},
      {R"("prompt": [1, 260])", "prompt"},
      {R"("prompt": [1, -1])", "prompt"},
      {R"("prompt": [1, 1.5])", "prompt"},
      {R"("prompt": [1, "a"])", "prompt"},
      {R"("prompt": ["a", 1])", "prompt[1]"},
      {R"("prompt": ["a", ""])", "prompt[1]"},
      {R"("prompt": [[1], []])", "prompt[1]"},
      {R"("prompt": [)" + repeat("\"a\",", 128) + R"("a"])", "prompt"},
      {R"("prompt": "a", "max_tokens": 0)", "max_tokens"},
      {R"("prompt": "a", "max_tokens": -2)", "max_tokens"},
      {R"("prompt": [)" + repeat("\"a\",", 15) + R"("a"], "n": 65)", "n"},
      {R"("prompt": "a", "logprobs": 21)", "logprobs"},
      {R"("prompt": "a", "logprobs": true)", "logprobs"},
      {R"("prompt": "a", "echo": 1)", "echo"},
      {R"("prompt": "a", "suffix": "z")", "suffix"},
  };
  for (const Case& c : cases) {
    const auto parsed = parse_completions("{" + c.member + "}", fake_model());
    const ApiError* error = std::get_if<ApiError>(&parsed);
    ASSERT_TRUE(error) << c.member;
    EXPECT_EQ(error->param, c.param) << error->message;
  }
}

TEST(Hostile, NativeRequestsAreChecked) {
  const std::vector<Case> cases = {
      {R"("x": 1)", "text"},
      {R"("text": "a", "input_ids": [1])", "input_ids"},
      {R"("text": "")", "text"},
      {R"("text": [])", "text"},
      {R"("text": 5)", "text"},
      {R"("input_ids": [])", "input_ids"},
      {R"("input_ids": [999999])", "input_ids"},
      {R"("input_ids": [[1], [-4]])", "input_ids[1]"},
      {R"("input_ids": "a")", "input_ids"},
      {R"("text": "a", "sampling_params": 5)", "sampling_params"},
      {R"("text": "a", "sampling_params": [{}, {}])", "sampling_params"},
      {R"("text": "a", "sampling_params": {"temperature": -1})", "sampling_params.temperature"},
      {R"("text": "a", "sampling_params": {"max_new_tokens": 0})", "sampling_params.max_new_tokens"},
      {R"("text": "a", "sampling_params": {"max_new_tokens": -1})", "sampling_params.max_new_tokens"},
      {R"("text": "a", "sampling_params": {"n": 129})", "sampling_params.n"},
      {R"("text": "a", "sampling_params": {"regex": 5})", "sampling_params.regex"},
      {R"("text": "a", "top_logprobs_num": 21)", "top_logprobs_num"},
      {R"("text": "a", "logprob_start_len": -2)", "logprob_start_len"},
      {R"("text": "a", "return_logprob": true, "logprob_start_len": 1)", "logprob_start_len"},
      {R"("text": "a", "rid": "")", "rid"},
      {R"("text": "a", "rid": 5)", "rid"},
      {R"("text": "a", "image_data": "x")", "image_data"},
  };
  for (const Case& c : cases) {
    const auto parsed = parse_generate("{" + c.member + "}", fake_model());
    const ApiError* error = std::get_if<ApiError>(&parsed);
    ASSERT_TRUE(error) << c.member;
    EXPECT_EQ(error->param, c.param) << error->message;
  }
}

}  // namespace
}  // namespace kt
