// Histories that clients cannot change any more: every one of them becomes a prompt, in both dialects.
#include "runtime/serve/chat/history.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "runtime/serve/anthropic/anthropic.h"
#include "runtime/serve/chat/call_history.h"
#include "runtime/serve/openai/openai_chat.h"
#include "tests/serve/support.h"

namespace kt {
namespace {

constexpr std::string_view kUser = R"({"role": "user", "content": "hi"})";

Json read(const std::string& messages, Dialect dialect = Dialect::openai) {
  return read_history(Json::parse("[" + messages + "]"), dialect);
}

// "role:content" of each message, calls as "name(arguments)", reasoning in brackets.
std::string told(const Json& messages) {
  std::string text;
  for (const Json& message : messages) {
    text += (text.empty() ? "" : "|") + message["role"].get<std::string>() + ":";
    if (message.contains("reasoning_content")) text += "<" + message["reasoning_content"].get<std::string>() + ">";
    text += message["content"].is_string() ? message["content"].get<std::string>() : message["content"].dump();
    if (!message.contains("tool_calls")) continue;
    for (const Json& call : message["tool_calls"])
      text += fmt::format(" {}({})", call["function"]["name"].get<std::string>(), call["function"]["arguments"].dump());
  }
  return text;
}

std::string call(const std::string& id, const std::string& arguments = R"("{}")", const std::string& name = "f") {
  return fmt::format(R"({{"id": "{}", "type": "function", "function": {{"name": "{}", "arguments": {}}}}})", id, name,
                     arguments);
}

std::string calls(const std::string& list) { return R"({"role": "assistant", "tool_calls": [)" + list + "]}"; }

std::string result(const std::string& id, const std::string& text) {
  return fmt::format(R"({{"role": "tool", "tool_call_id": "{}", "content": "{}"}})", id, text);
}

TEST(History, RolesAreThoseThatTemplatesKnow) {
  EXPECT_EQ(told(read(R"({"role": "Developer", "content": "a"}, {"role": "USER", "content": "b"},
                         {"role": "ipython", "content": "c"}, {"role": "Assistant", "content": "d"})")),
            "system:a|user:b|user:c|assistant:d");
  EXPECT_EQ(told(read(R"({"role": "user", "content": [{"type": "text", "text": "a"}]},
                         {"role": "system", "content": "b"}, {"role": "developer", "content": "c"})",
                      Dialect::anthropic)),
            "user:a|system:b|system:c");
}

TEST(History, ArgumentsAreAnObjectWhateverTheModelWrote) {
  const auto arguments = [](const std::string& given) {
    const Json history = read(calls(call("1", given)) + "," + result("1", "r"));
    return history[0]["tool_calls"][0]["function"]["arguments"].dump();
  };
  EXPECT_EQ(arguments(R"("{\"a\": 1}")"), R"({"a":1})");
  EXPECT_EQ(arguments(R"({"a": 1})"), R"({"a":1})");
  for (const char* none : {R"("")", R"("null")", "null", R"("  ")", R"("{}")", "{}"}) EXPECT_EQ(arguments(none), "{}");
  EXPECT_EQ(arguments(R"("\"{\\\"a\\\": 1}\"")"), R"({"a":1})") << "encoded twice";
  EXPECT_EQ(arguments(R"("{\"path\": \"a.txt\", \"text\": \"first li")"),
            R"({"raw_arguments":"{\"path\": \"a.txt\", \"text\": \"first li"})");
  EXPECT_EQ(arguments(R"("[1]")"), R"({"raw_arguments":"[1]"})");
  EXPECT_EQ(arguments("[1]"), R"({"raw_arguments":"[1]"})");
  EXPECT_EQ(arguments("5"), R"({"raw_arguments":"5"})");
  EXPECT_EQ(told(read(R"({"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": "x"}]},
                         {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]})",
                      Dialect::anthropic)),
            R"(assistant: f({"raw_arguments":"x"})|tool:)");
}

TEST(History, CallsAreReadInEveryFormThatClientsHave) {
  EXPECT_EQ(told(read(R"({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
                         {"role": "function", "name": "f", "content": "r"})")),
            "assistant: f({})|tool:r");
  EXPECT_EQ(told(read(calls(R"({"id": "1", "type": "custom", "custom": {"name": "f", "input": "ls"}})"))),
            R"(assistant: f({"raw_arguments":"ls"}))");
  EXPECT_EQ(told(read(calls(R"({"id": "1", "name": "f", "arguments": {"a": 1}})"))), R"(assistant: f({"a":1}))");
  EXPECT_EQ(told(read(calls(R"({"id": "1", "function": {"name": null}})"))), "assistant: unknown({})");
  EXPECT_EQ(told(read(R"({"role": "user", "content": "x", "tool_calls": []})")), "user:x");
}

TEST(History, WhatATextModelCannotReadIsALine) {
  const auto content = [](const std::string& parts, Dialect dialect = Dialect::openai) {
    return told(read(R"({"role": "user", "content": [)" + parts + "]}", dialect));
  };
  const std::string image = R"({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})";
  EXPECT_EQ(content(image), "user:[image: this model reads text only]");
  EXPECT_EQ(content(R"({"type": "text", "text": "a"}, )" + image + R"(, {"type": "text", "text": "b"})"),
            "user:a\n[image: this model reads text only]\nb");
  EXPECT_EQ(content(R"({"type": "file", "file": {"filename": "a.pdf", "file_data": "x"}})"),
            "user:[document \"a.pdf\": this model reads text only]");
  EXPECT_EQ(content(R"({"type": "input_audio"}, {"type": "video_url"}, {"type": "hologram"}, {})"),
            "user:[audio: this model reads text only]\n[video: this model reads text only]\n"
            "[hologram: this model reads text only]\n[part: this model reads text only]");
  EXPECT_EQ(
      content(R"({"type": "document", "source": {"type": "base64", "data": "x"}, "title": "t"})", Dialect::anthropic),
      "user:[document \"t\": this model reads text only]");
  EXPECT_EQ(
      content(R"({"type": "document", "source": {"type": "text", "data": "words"}, "title": "t"})", Dialect::anthropic),
      "user:t\nwords");
  EXPECT_EQ(content(R"({"type": "search_result", "source": "s", "title": "t", "content":
                        [{"type": "text", "text": "a"}]})",
                    Dialect::anthropic),
            "user:t\ns\na");
  EXPECT_EQ(content(R"({"type": "input_text", "text": "a"}, "b")"),
            R"(user:[{"type":"text","text":"a"},{"type":"text","text":"b"}])");
  EXPECT_EQ(told(read(R"({"role": "assistant", "content": null, "refusal": "No."})")), "assistant:No.");
}

TEST(History, ResultsOfToolsMayHoldPictures) {
  const std::string call_f =
      R"({"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]})";
  const std::string image = R"({"type": "image", "source": {"type": "base64", "data": "AAAA"}})";
  EXPECT_EQ(told(read(call_f + R"(, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content":
                [{"type": "text", "text": "a"}, )" +
                          image + R"(]}, {"type": "text", "text": "and?"}]})",
                      Dialect::anthropic)),
            "assistant: f({})|tool:a\n[image: this model reads text only]|user:and?");
  EXPECT_EQ(
      told(read(calls(call("1")) + R"(, {"role": "tool", "tool_call_id": "1", "content": [{"type": "image_url"}]})")),
      "assistant: f({})|tool:[image: this model reads text only]");
}

TEST(History, EmptyTurnsOfTheAssistantAreLeftOut) {
  EXPECT_EQ(told(read(R"({"role": "user", "content": "a"}, {"role": "assistant", "content": ""},
                         {"role": "assistant"}, {"role": "assistant", "content": [], "tool_calls": []},
                         {"role": "assistant", "content": null, "reasoning_content": "r"})")),
            "user:a|assistant:<r>");
}

TEST(History, ReasoningHasOneName) {
  EXPECT_EQ(told(read(R"({"role": "assistant", "content": "a", "reasoning": "r"})")), "assistant:<r>a");
  EXPECT_EQ(told(read(R"({"role": "assistant", "content": "a", "reasoning": "r", "reasoning_content": "s"})")),
            "assistant:<s>a");
  EXPECT_EQ(told(read(R"({"role": "assistant", "content": "a", "reasoning": {"x": 1}, "reasoning_content": null})")),
            "assistant:a");
  EXPECT_EQ(told(read(R"({"role": "assistant", "content": [{"type": "thinking", "thinking": "r"},
                         {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}]})")),
            "assistant:<r>a");
}

TEST(History, ResultsStandInTheOrderOfTheirCalls) {
  EXPECT_EQ(
      told(read(calls(call("1") + "," + call("2", "{}", "g")) + "," + result("2", "two") + "," + result("1", "one"))),
      "assistant: f({}) g({})|tool:one|tool:two");
  EXPECT_EQ(told(read(R"({"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}},
                           {"type": "tool_use", "id": "2", "name": "g", "input": {}}]},
                         {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "2", "content": "two"},
                           {"type": "tool_result", "tool_use_id": "1", "content": "one"}]})",
                      Dialect::anthropic)),
            "assistant: f({}) g({})|tool:one|tool:two");
  // Ids that a client uses again belong to the latest call before.
  EXPECT_EQ(told(read(calls(call("1")) + "," + result("1", "a") + "," + calls(call("1")) + "," + result("1", "b"))),
            "assistant: f({})|tool:a|assistant: f({})|tool:b");
  EXPECT_EQ(told(read(calls(call("1") + "," + call("1")) + "," + result("1", "a") + "," + result("1", "b"))),
            "assistant: f({}) f({})|tool:a|tool:b");
}

TEST(History, WhatCameBetweenACallAndItsResultComesBehind) {
  EXPECT_EQ(told(read(calls(call("1")) + R"(, {"role": "user", "content": "by the way"},
                                             {"role": "system", "content": "s"}, )" +
                      result("1", "a"))),
            "assistant: f({})|tool:a|user:by the way|system:s");
  EXPECT_EQ(told(read(calls(call("1")) + "," + calls(call("2")) + "," + result("1", "a") + "," + result("2", "b"))),
            "assistant: f({})|tool:a|assistant: f({})|tool:b");
}

TEST(History, EveryCallHasItsResult) {
  EXPECT_EQ(told(read(calls(call("1") + "," + call("2")) + "," + result("2", "two") + "," + std::string(kUser))),
            "assistant: f({}) f({})|tool:[no result]|tool:two|user:hi");
  EXPECT_EQ(told(read(std::string(kUser) + "," + calls(call("1")))), "user:hi|assistant: f({})") << "not yet there";
  EXPECT_EQ(
      told(read(calls(R"({"function": {"name": "f", "arguments": "{}"}})") + R"(, {"role": "tool", "content": "r"})")),
      "assistant: f({})|tool:r");
  const Json made_up = read(calls(R"({"function": {"name": "f"}})") + R"(, {"role": "tool", "content": "r"})");
  EXPECT_EQ(made_up[0]["tool_calls"][0]["id"], made_up[1]["tool_call_id"]);
  EXPECT_EQ(told(read(result("gone", "r") + "," + std::string(kUser))),
            "user:[result of an earlier tool call]\nr|user:hi");
}

TEST(History, SystemMessagesStandWhereTheTemplateTakesThem) {
  using System = TemplateTraits::System;
  const std::string text = R"({"role": "system", "content": "a"}, {"role": "developer", "content": "b"},
                              {"role": "user", "content": "hi"}, {"role": "system", "content": "c"})";
  EXPECT_EQ(told(fit_history(read(text), {.system = System::anywhere})), "system:a|system:b|user:hi|system:c");
  EXPECT_EQ(told(fit_history(read(text), {.system = System::first})), "system:a\n\nb\n\nc|user:hi");
  EXPECT_EQ(told(fit_history(read(text), {.system = System::none})), "user:a\n\nb\n\nc\n\nhi");
  EXPECT_EQ(told(fit_history(read(std::string(kUser)), {.system = System::first})), "user:hi");
}

TEST(History, AUserSpeaksWhereTheTemplateDemandsIt) {
  const TemplateTraits traits{.system = TemplateTraits::System::first, .needs_user = true};
  const std::string rest = calls(call("1")) + "," + result("1", "r");
  EXPECT_EQ(told(fit_history(read(rest), traits)), "user:Continue.|assistant: f({})|tool:r");
  EXPECT_EQ(told(fit_history(read(R"({"role": "system", "content": "s"},)" + rest), traits)),
            "system:s|user:Continue.|assistant: f({})|tool:r");
  EXPECT_EQ(told(fit_history(read(R"({"role": "user", "content": "<tool_response>x</tool_response>"})"), traits)),
            "user:Continue.|user:<tool_response>x</tool_response>");
  EXPECT_EQ(told(fit_history(read(std::string(kUser)), traits)), "user:hi");
  const std::string nothing = R"({"max_tokens": 5, "messages": [{"role": "assistant", "content": ""}]})";
  EXPECT_EQ(prompt_of(job_of(parse_chat(nothing, fake_model()))), "user:Continue.;assistant:");
  EXPECT_EQ(prompt_of(job_of(parse_messages(nothing, fake_model()))), "user:Continue.;assistant:");
}

TEST(History, TextPartsReachTemplatesThatJoinThem) {
  const Json messages =
      read(R"({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})");
  EXPECT_EQ(told(fit_history(messages, {})), "user:a b");
  EXPECT_EQ(told(fit_history(messages, {.text_parts = true})),
            R"(user:[{"type":"text","text":"a"},{"type":"text","text":"b"}])");
}

TEST(History, BothDialectsGiveTheSamePrompt) {
  const std::string messages = R"("messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
      {"role": "system", "content": "c"}, {"role": "user", "content": [{"type": "text", "text": "d"}]}])";
  const Job openai = job_of(parse_chat("{" + messages + "}", fake_model()));
  const Job anthropic = job_of(parse_messages("{\"max_tokens\": 5, " + messages + "}", fake_model()));
  EXPECT_EQ(prompt_of(openai), "user:a;assistant:b;system:c;user:d;assistant:");
  EXPECT_EQ(prompt_of(openai), prompt_of(anthropic));
}

}  // namespace
}  // namespace kt
