// Reasoning and tool calls in chats: what clients get for the markup that models write.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "runtime/serve/openai/openai_chat.h"
#include "runtime/serve/sglang/parse_endpoints.h"
#include "tests/serve/support.h"

namespace kt {
namespace {

constexpr std::string_view kTools =
    R"([{"type": "function", "function": {"name": "f", "parameters": {"type": "object",
        "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}}}])";
constexpr std::string_view kQwenCall =
    "<tool_call>\n<function=f>\n<parameter=n>\n5\n</parameter>\n<parameter=s>\na b\n</parameter>\n</function>\n"
    "</tool_call>";
constexpr std::string_view kKimiCalls =
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"n\": 1}"
    "<|tool_call_end|><|tool_call_begin|>functions.g-h:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
    "<|tool_calls_section_end|>";

ServedModel model_with(std::string_view tools, std::string_view reasoning) {
  ServedModel model = fake_model();
  model.tools = find_tool_format(tools);
  model.reasoning = find_reasoning_format(reasoning);
  return model;
}

std::string body(const std::string& members, std::string_view messages = R"([{"role": "user", "content": "hi"}])") {
  return fmt::format(R"({{"messages": {}, "tools": {}{}}})", messages, kTools, members);
}

Json answer(const ServedModel& model, std::string_view text, const std::string& members = "",
            Finish finish = kStopped) {
  Job job = job_of(parse_chat(body(members), model));
  return Json::parse(play(job, text, 3, std::move(finish)));
}

// The deltas of a stream with their finish reasons, without the role chunk.
struct Streamed {
  std::vector<Json> deltas;
  std::string finish;
  Json usage;
};

Streamed stream(const ServedModel& model, std::string_view text, size_t bytes, const std::string& members = "") {
  Job job = job_of(parse_chat(body(R"(, "stream": true, "stream_options": {"include_usage": true})" + members), model));
  const std::string events = play(job, text, bytes);
  Streamed streamed;
  for (size_t at = 0; at < events.size(); at = events.find("\n\n", at) + 2) {
    const std::string line = events.substr(at + 6, events.find("\n\n", at) - at - 6);
    if (line == "[DONE]") break;
    const Json chunk = Json::parse(line);
    if (chunk["choices"].empty()) {
      streamed.usage = chunk["usage"];
      continue;
    }
    const Json& choice = chunk["choices"][0];
    if (choice["finish_reason"].is_string()) {
      streamed.finish = choice["finish_reason"].get<std::string>();
      EXPECT_EQ(choice["delta"].dump(), "{}");
    } else if (!choice["delta"].contains("role")) {
      streamed.deltas.push_back(choice["delta"]);
    }
  }
  return streamed;
}

TEST(ToolCalls, ComeInTheMessageWithIdsAndFinishReason) {
  const Json choice = answer(model_with("qwen3_coder", ""), "Let me see.\n" + std::string(kQwenCall))["choices"][0];
  const Json& message = choice["message"];
  EXPECT_EQ(message["content"], "Let me see.");
  ASSERT_EQ(message["tool_calls"].size(), 1u);
  const Json& call = message["tool_calls"][0];
  EXPECT_TRUE(call["id"].get<std::string>().starts_with("call_"));
  EXPECT_EQ(call["id"].get<std::string>().size(), 29u);
  EXPECT_EQ(call["index"], 0);
  EXPECT_EQ(call["type"], "function");
  EXPECT_EQ(call["function"]["name"], "f");
  EXPECT_EQ(Json::parse(call["function"]["arguments"].get<std::string>()), (Json{{"n", 5}, {"s", "a b"}}));
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_TRUE(choice["matched_stop"].is_null());
}

TEST(ToolCalls, AreContentNullWhenThereIsNoOtherText) {
  const Json message = answer(model_with("qwen3_coder", ""), kQwenCall)["choices"][0]["message"];
  EXPECT_TRUE(message["content"].is_null());
  EXPECT_TRUE(message["reasoning_content"].is_null());
}

TEST(ToolCalls, StreamTheirHeadOnceAndArgumentsWithTheIndexOnly) {
  for (const size_t bytes : {1, 3, 7, 1000}) {
    SCOPED_TRACE(bytes);
    const Streamed streamed = stream(model_with("kimi_k2", ""), "Calling." + std::string(kKimiCalls), bytes);
    std::string content;
    std::vector<std::string> heads, arguments(2);
    for (const Json& delta : streamed.deltas) {
      EXPECT_EQ(delta.size(), 1u) << "nothing but what there is: " << delta;
      if (delta.contains("content")) content += delta["content"].get<std::string>();
      if (!delta.contains("tool_calls")) continue;
      const Json& call = delta["tool_calls"][0];
      const size_t index = call["index"].get<size_t>();
      if (call.contains("id")) {
        heads.push_back(call.dump());
      } else {
        EXPECT_EQ(call.size(), 2u) << call;
        EXPECT_EQ(call["function"].size(), 1u) << call;
        arguments[index] += call["function"]["arguments"].get<std::string>();
      }
    }
    EXPECT_EQ(content, "Calling.");
    ASSERT_EQ(heads.size(), 2u);
    EXPECT_EQ(heads[0], R"({"index":0,"id":"functions.f:0","type":"function","function":{"name":"f","arguments":""}})");
    EXPECT_EQ(heads[1],
              R"({"index":1,"id":"functions.g-h:1","type":"function","function":{"name":"g-h","arguments":""}})");
    EXPECT_EQ(Json::parse(arguments[0]), (Json{{"n", 1}}));
    EXPECT_EQ(arguments[1], "{}");
    EXPECT_EQ(streamed.finish, "tool_calls");
  }
}

TEST(ToolCalls, ThatWereBrokenOffAreNotForActingOn) {
  const ServedModel model = model_with("qwen3_coder", "");
  const std::string cut = "Well. " + std::string(kQwenCall) + "\n<tool_call>\n<function=f>\n<parameter=s>\nhal";
  const Finish length{Finish::Kind::length, {}, ""};

  const Json choice = answer(model, cut, "", length)["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(choice["message"]["content"], "Well.");
  EXPECT_EQ(choice["message"]["tool_calls"].size(), 1u);
  const Json alone = answer(model, cut.substr(cut.rfind("\n<tool_call>")), "", kStopped)["choices"][0];
  EXPECT_EQ(alone["finish_reason"], "stop");
  EXPECT_TRUE(alone["message"]["tool_calls"].is_null());
}

TEST(ToolCalls, StayTextWithoutParserOrWithToolChoiceNone) {
  EXPECT_EQ(answer(model_with("", ""), kQwenCall)["choices"][0]["message"]["content"], kQwenCall);
  const Json none = answer(model_with("qwen3_coder", ""), kQwenCall, R"(, "tool_choice": "none")")["choices"][0];
  EXPECT_EQ(none["message"]["content"], kQwenCall);
  EXPECT_EQ(none["finish_reason"], "stop");
}

TEST(ToolCalls, OfTheHistoryGetKimisIds) {
  constexpr std::string_view kHistory = R"([{"role": "user", "content": "x"},
      {"role": "assistant", "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": {"a": 1}}}]},
      {"role": "tool", "tool_call_id": "call_2", "content": "two"},
      {"role": "tool", "tool_call_id": "call_1", "content": "one"}])";
  struct Seen : FakeTemplate {
    std::string render(std::string_view messages, std::string_view, std::string_view) const override {
      return std::string(messages);
    }
  } seen;
  const auto history = [&](ServedModel model) {
    model.chat_template = &seen;
    return job_of(parse_chat(body("", kHistory), model));
  };

  Job kimi = history(model_with("kimi_k2", ""));
  const Json rendered = Json::parse(prompt_of(kimi));
  EXPECT_EQ(rendered[1]["tool_calls"][0]["id"], "functions.f:0");
  EXPECT_EQ(rendered[1]["tool_calls"][1]["id"], "functions.g:1");
  EXPECT_EQ(rendered[2]["tool_call_id"], "functions.f:0");
  EXPECT_EQ(rendered[2]["content"], "one");
  EXPECT_EQ(rendered[3]["tool_call_id"], "functions.g:1");
  const Json answered = Json::parse(play(kimi, kKimiCalls, 5));
  EXPECT_EQ(answered["choices"][0]["message"]["tool_calls"][0]["id"], "functions.f:2");
  EXPECT_EQ(answered["choices"][0]["message"]["tool_calls"][1]["id"], "functions.g-h:3");
  EXPECT_EQ(Json::parse(prompt_of(history(model_with("qwen3_coder", ""))))[2]["tool_call_id"], "call_1");
}

TEST(ToolCalls, ReachATemplateThatTakesTextAsText) {
  struct Seen : FakeTemplate {
    std::string render(std::string_view messages, std::string_view, std::string_view) const override {
      return std::string(messages);
    }
    TemplateTraits traits() const override { return {.argument_text = true}; }
  } seen;
  ServedModel model = model_with("deepseekv32", "");
  model.chat_template = &seen;
  const Job job = job_of(parse_chat(body("", R"([{"role": "assistant", "tool_calls": [
      {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]}])"),
                                    model));
  EXPECT_EQ(Json::parse(prompt_of(job))[0]["tool_calls"][0]["function"]["arguments"], R"({"a":1})");
}

TEST(ParseEndpoints, GiveWhatTheNamedParserFinds) {
  const auto ask = [](auto endpoint, const Json& body, const ServedModel& model = fake_model()) {
    const auto answer = endpoint(body.dump(), model);
    if (const ApiError* error = std::get_if<ApiError>(&answer)) return Json(error->message);
    return Json::parse(std::get<std::string>(answer));
  };
  const Json call = ask(
      parse_function_call,
      {{"text", "Go. " + std::string(kQwenCall)}, {"tools", Json::parse(kTools)}, {"tool_call_parser", "qwen3_coder"}});
  EXPECT_EQ(call["normal_text"], "Go.");
  EXPECT_EQ(call["calls"][0]["tool_index"], 0);
  EXPECT_EQ(call["calls"][0]["name"], "f");
  EXPECT_EQ(Json::parse(call["calls"][0]["parameters"].get<std::string>())["n"], 5);
  EXPECT_EQ(ask(separate_reasoning, {{"text", "<think>a</think>b"}, {"reasoning_parser", "qwen3"}}).dump(),
            R"({"reasoning_text":"a","text":"b"})");
  EXPECT_EQ(
      ask(separate_reasoning, {{"text", "a</think>b"}, {"force_reasoning", true}}, model_with("", "qwen3")).dump(),
      R"({"reasoning_text":"a","text":"b"})");
  EXPECT_NE(ask(separate_reasoning, {{"text", "b"}}).dump().find("reasoning_parser: is required"), std::string::npos);
  EXPECT_NE(ask(parse_function_call, {{"text", "b"}, {"tool_call_parser", "x"}}).dump().find("kimi_k2"),
            std::string::npos);
  EXPECT_EQ(ask(parse_function_call, {{"tool_call_parser", "hermes"}}), "text: is required");
}

TEST(Reasoning, IsItsOwnFieldAndCounted) {
  const ServedModel model = model_with("", "qwen3");
  const Json answered = answer(model, "I think.\n</think>\n\nYes.");
  const Json& message = answered["choices"][0]["message"];
  EXPECT_EQ(message["reasoning_content"], "I think.\n");
  EXPECT_EQ(message["content"], "Yes.");
  EXPECT_EQ(answered["usage"]["reasoning_tokens"], 3) << "of three bytes each";
  EXPECT_EQ(answered["usage"]["completion_tokens_details"]["reasoning_tokens"], 3);
}

TEST(Reasoning, StreamsBeforeContentInEveryChunking) {
  for (const size_t bytes : {1, 4, 1000}) {
    const Streamed streamed = stream(model_with("", "qwen3"), "I think.</think>\n\nYes.", bytes);
    std::string order, text;
    for (const Json& delta : streamed.deltas) {
      const bool reasoning = delta.contains("reasoning_content");
      if (order.empty() || order.back() != (reasoning ? 'r' : 'c')) order += reasoning ? 'r' : 'c';
      text += delta[reasoning ? "reasoning_content" : "content"].get<std::string>();
    }
    EXPECT_EQ(order, "rc");
    EXPECT_EQ(text, "I think.Yes.");
    EXPECT_EQ(streamed.finish, "stop");
    EXPECT_GT(streamed.usage["reasoning_tokens"], 0);
  }
}

TEST(Reasoning, FollowsTheSwitchesOfTheRequest) {
  const ServedModel model = model_with("", "qwen3");
  const auto message = [&](const std::string& members) {
    return answer(model, "text", members)["choices"][0]["message"];
  };
  EXPECT_EQ(message("")["reasoning_content"], "text");
  EXPECT_TRUE(message("")["content"].is_null());
  EXPECT_EQ(message(R"(, "chat_template_kwargs": {"enable_thinking": false})")["content"], "text");
  EXPECT_EQ(message(R"(, "reasoning_effort": "none")")["content"], "text");
  EXPECT_EQ(message(R"(, "separate_reasoning": false)")["content"], "text");
  const Streamed whole = stream(model, "a long thought</think>done", 2, R"(, "stream_reasoning": false)");
  ASSERT_GE(whole.deltas.size(), 2u);
  EXPECT_EQ(whole.deltas[0].dump(), R"({"reasoning_content":"a long thought"})");
}

TEST(Reasoning, EndsWhereACallBegins) {
  const Json choice = answer(model_with("qwen3_coder", "qwen3"), "I call.\n" + std::string(kQwenCall))["choices"][0];
  EXPECT_EQ(choice["message"]["reasoning_content"], "I call.\n");
  EXPECT_EQ(choice["message"]["tool_calls"].size(), 1u);
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
}

TEST(Reasoning, LogprobsShowEveryTokenOnce) {
  Job job = job_of(parse_chat(body(R"(, "stream": true, "logprobs": true)"), model_with("qwen3_coder", "qwen3")));
  const std::string events = play(job, "Hm.</think>Go.\n" + std::string(kQwenCall), 4);
  size_t tokens = 0;
  for (size_t at = 0; (at = events.find("\"logprob\":-0.5", at)) != events.npos; ++at) ++tokens;
  EXPECT_EQ(tokens, (std::string("Hm.</think>Go.\n").size() + kQwenCall.size() + 3) / 4 + 1);
}

}  // namespace
}  // namespace kt
