// Anthropic's Messages: requests become chats, answers become content blocks.
#include "runtime/serve/anthropic/anthropic.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "runtime/serve/anthropic/anthropic_request.h"
#include "tests/serve/support.h"

namespace kt {
namespace {

constexpr std::string_view kCall =
    "<tool_call>\n<function=f>\n<parameter=n>\n5\n</parameter>\n</function>\n</tool_call>";
const std::string kTools =
    R"(, "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object",
        "properties": {"n": {"type": "integer"}}}, "cache_control": {"type": "ephemeral"}}])";

std::string body(const std::string& members) {
  return R"({"model": "claude", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}])" + members + "}";
}

ServedModel thinking_model() {
  ServedModel model = fake_model();
  model.tools = find_tool_format("qwen3_coder");
  model.reasoning = find_reasoning_format("qwen3");
  return model;
}

ChatRequest chat_request(const std::string& request) {
  const Json json = Json::parse(request);
  return read_messages_request(Fields(json));
}

struct Event {
  std::string name;
  Json data;
};

std::vector<Event> events_of(const std::string& stream) {
  std::vector<Event> events;
  for (size_t at = 0; at < stream.size(); at = stream.find("\n\n", at) + 2) {
    const size_t line = stream.find('\n', at), end = stream.find("\n\n", at);
    EXPECT_EQ(stream.substr(at, 7), "event: ");
    EXPECT_EQ(stream.substr(line, 7), "\ndata: ");
    events.push_back({stream.substr(at + 7, line - at - 7), Json::parse(stream.substr(line + 7, end - line - 7))});
    EXPECT_EQ(events.back().name, events.back().data["type"]);
  }
  return events;
}

TEST(Messages, AnswerIsBlocksWithUsage) {
  Job job = job_of(parse_messages(body(kTools), thinking_model()));
  const Json answer = Json::parse(play(job, "Hm.</think>\n\nI call.\n" + std::string(kCall), 4));

  EXPECT_TRUE(answer["id"].get<std::string>().starts_with("msg_"));
  EXPECT_EQ(answer["type"], "message");
  EXPECT_EQ(answer["model"], "claude");
  ASSERT_EQ(answer["content"].size(), 3u);
  EXPECT_EQ(answer["content"][0].dump(), R"({"type":"thinking","thinking":"Hm.","signature":""})");
  EXPECT_EQ(answer["content"][1].dump(), R"({"type":"text","text":"I call."})");
  EXPECT_EQ(answer["content"][2]["type"], "tool_use");
  EXPECT_EQ(answer["content"][2]["name"], "f");
  EXPECT_EQ(answer["content"][2]["input"].dump(), R"({"n":5})");
  EXPECT_EQ(answer["stop_reason"], "tool_use");
  EXPECT_TRUE(answer["stop_sequence"].is_null());
  EXPECT_EQ(answer["usage"]["input_tokens"], job.requests[0].input_ids.size());
  EXPECT_GT(answer["usage"]["output_tokens"], 10);
}

TEST(Messages, StreamOneBlockAfterTheOther) {
  for (const size_t bytes : {1, 5, 1000}) {
    SCOPED_TRACE(bytes);
    Job job = job_of(parse_messages(body(kTools + R"(, "stream": true)"), thinking_model()));
    const std::string text = "Hm.</think>Well.\n" + std::string(kCall) + "\n" + std::string(kCall) + "\nBye.";
    const std::vector<Event> events = events_of(play(job, text, bytes));

    ASSERT_GT(events.size(), 12u);
    EXPECT_EQ(events[0].name, "message_start");
    const Json& message = events[0].data["message"];
    EXPECT_EQ(message["content"].dump(), "[]");
    EXPECT_TRUE(message.contains("stop_reason") && message["stop_reason"].is_null());
    EXPECT_EQ(message["usage"]["input_tokens"], job.requests[0].input_ids.size());
    EXPECT_EQ(events[1].name, "ping");
    std::vector<std::string> blocks, contents;
    bool open = false;
    for (size_t i = 2; i + 2 < events.size(); ++i) {
      const Json& data = events[i].data;
      if (events[i].name == "content_block_start") {
        EXPECT_FALSE(open);
        EXPECT_EQ(data["index"], blocks.size());
        blocks.push_back(data["content_block"]["type"].get<std::string>());
        contents.emplace_back();
        open = true;
      } else if (events[i].name == "content_block_delta") {
        EXPECT_TRUE(open);
        EXPECT_EQ(data["index"], blocks.size() - 1);
        for (const char* key : {"thinking", "text", "partial_json"}) contents.back() += data["delta"].value(key, "");
      } else {
        EXPECT_EQ(events[i].name, "content_block_stop");
        EXPECT_EQ(data["index"], blocks.size() - 1);
        open = false;
      }
    }
    EXPECT_FALSE(open);
    EXPECT_EQ(blocks, (std::vector<std::string>{"thinking", "text", "tool_use", "tool_use", "text"}));
    EXPECT_EQ(contents[0], "Hm.");
    EXPECT_EQ(contents[1], "Well.");
    EXPECT_EQ(Json::parse(contents[2]).dump(), R"({"n":5})");
    EXPECT_EQ(Json::parse(contents[3]).dump(), R"({"n":5})");
    EXPECT_TRUE(contents[4].ends_with("Bye.")) << contents[4];
    const Event& delta = events[events.size() - 2];
    EXPECT_EQ(delta.name, "message_delta");
    EXPECT_EQ(delta.data["delta"].dump(), R"({"stop_reason":"tool_use","stop_sequence":null})");
    EXPECT_GT(delta.data["usage"]["output_tokens"], 0);
    EXPECT_EQ(events.back().name, "message_stop");
  }
}

TEST(Messages, SayWhatEndedThem) {
  const auto end = [](Finish finish) {
    Job job = job_of(parse_messages(body(R"(, "stop_sequences": ["END"])"), fake_model()));
    EXPECT_EQ(job.requests[0].sampling.stop, std::vector<std::string>{"END"});
    const Json answer = Json::parse(play(job, "x", 1, std::move(finish)));
    return answer["stop_reason"].dump() + answer["stop_sequence"].dump();
  };
  EXPECT_EQ(end(kStopped), R"("end_turn"null)");
  EXPECT_EQ(end({Finish::Kind::stop, std::string("END"), ""}), R"("stop_sequence""END")");
  EXPECT_EQ(end({Finish::Kind::length, {}, ""}), R"("max_tokens"null)");
}

TEST(Messages, CountCachedTokensApart) {
  Job job = job_of(parse_messages(body(""), fake_model()));
  Emission emission{.text = "x", .prompt_tokens = 18, .cached_tokens = 10, .completion_tokens = 1};
  emission.finish = kStopped;
  job.answer->take(0, std::move(emission));
  const Json usage = Json::parse(job.answer->finish())["usage"];
  EXPECT_EQ(usage["input_tokens"], 8);
  EXPECT_EQ(usage["cache_read_input_tokens"], 10);
}

TEST(Messages, AConversationBecomesAChat) {
  const ChatRequest chat = chat_request(R"({"max_tokens": 1, "thinking": {"type": "enabled", "budget_tokens": 1024},
    "system": [{"type": "text", "text": "x-anthropic-billing-header: cch=1a2b3;"},
               {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
               {"type": "text", "text": "Be kind."}],
    "messages": [
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "redacted_thinking", "data": "xx"},
        {"type": "text", "text": "Wait."},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"n": 5}}]},
      {"role": "user", "content": [
        {"type": "text", "text": "and?"},
        {"type": "tool_result", "tool_use_id": "t1", "is_error": true,
         "content": [{"type": "text", "text": "no"}, {"type": "text", "text": "such file"}]},
        {"type": "tool_result", "tool_use_id": "t2"}]}],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"}})");
  EXPECT_EQ(chat.messages.dump(),
            R"([{"role":"system","content":"Be brief.\nBe kind."},)"
            R"({"role":"user","content":"a\nb"},)"
            R"({"role":"assistant","content":"Wait.","reasoning_content":"Hm.","tool_calls":[{"id":"t1",)"
            R"("type":"function","function":{"name":"f","arguments":{"n":5}}}]},)"
            R"({"role":"tool","tool_call_id":"t1","content":"no\nsuch file"},)"
            R"({"role":"user","content":"[result of an earlier tool call]\n"},)"
            R"({"role":"user","content":"and?"}])");
  EXPECT_EQ(chat.tools.dump(), R"([{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}])");
  EXPECT_EQ(chat.tool_choice.kind, ToolChoice::Kind::automatic);
  EXPECT_EQ(chat.kwargs["enable_thinking"], true);
  EXPECT_FALSE(chat.continue_last);
}

TEST(Messages, TheBillingLineIsNoPartOfThePrompt) {
  const auto prompt = [](const std::string& system) {
    return prompt_of(job_of(parse_messages(body(R"(, "system": )" + system), fake_model())));
  };
  EXPECT_EQ(prompt(R"("x-anthropic-billing-header: cch=1;\nBe brief.")"), prompt(R"("Be brief.")"));
  EXPECT_EQ(prompt(R"([{"type": "text", "text": "x-anthropic-billing-header: cch=2;"}])"), "user:hi;assistant:");
}

TEST(Messages, ALastMessageOfTheAssistantIsContinued) {
  const Job job = job_of(parse_messages(
      R"({"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well,"}]})",
      fake_model()));
  EXPECT_EQ(prompt_of(job), "user:hi;assistant:Well,");
}

TEST(Messages, CountTokensIsTheLengthOfThePrompt) {
  const std::string request = body(kTools);
  const Job job = job_of(parse_messages(request, thinking_model()));
  EXPECT_EQ(std::get<std::string>(count_tokens(request, thinking_model())),
            fmt::format(R"({{"input_tokens":{}}})", job.requests[0].input_ids.size()));
}

TEST(Messages, MistakesAreNamed) {
  const auto message = [](const std::string& request) {
    const auto parsed = parse_messages(request, fake_model());
    const ApiError* error = std::get_if<ApiError>(&parsed);
    EXPECT_TRUE(error) << request;
    return error ? error->message : "";
  };
  const auto turn = [](const std::string& content, const std::string& role = "user") {
    return R"({"max_tokens": 5, "messages": [{"role": ")" + role + R"(", "content": )" + content + "}]}";
  };
  EXPECT_EQ(message(R"({"messages": [{"role": "user", "content": "hi"}]})"), "max_tokens: is required");
  EXPECT_EQ(message(R"({"max_tokens": 5})"), "messages: is required");
  EXPECT_EQ(message(R"({"max_tokens": 5, "messages": []})"), "messages: at least one message is required");
  EXPECT_TRUE(message(body(R"(, "max_tokens": 0)")).starts_with("max_tokens: must be"));
  EXPECT_TRUE(message(turn("5")).starts_with("messages[0].content: expected"));
  EXPECT_TRUE(
      message(body(R"(, "tools": [{"type": "web_search_20250305", "name": "w"}])")).starts_with("tools[0].type:"));
  EXPECT_TRUE(message(body(R"(, "tools": [{"name": "f"}])")).starts_with("tools[0].input_schema: is required"));
  EXPECT_EQ(message(body(R"(, "tool_choice": {"type": "any"})")), "tool_choice: there are no tools to call");
  EXPECT_TRUE(message(body(kTools + R"(, "tool_choice": {"type": "tool", "name": "no"})")).starts_with("Tool 'no'"));
  EXPECT_EQ(message(body(R"(, "output_config": {"format": {"type": "json_schema"}})")),
            "output_format.schema: is required");
  EXPECT_EQ(message(turn('"' + std::string(600, 'x') + '"')), "prompt is too long: 616 tokens > 511 maximum");
}

TEST(Messages, UnknownMembersAreIgnored) {
  job_of(parse_messages(body(R"(, "metadata": {"user_id": "u"}, "context_management": {}, "service_tier": "auto",
      "output_config": {"effort": "high"}, "thinking": {"type": "adaptive"})"),
                        fake_model()));
}

TEST(Messages, ErrorsHaveAnthropicsShape) {
  const ApiError busy{503, "later", "", ""};
  EXPECT_EQ(error_status(busy, Dialect::anthropic), 529);
  EXPECT_EQ(error_body(busy, Dialect::anthropic),
            R"({"type":"error","error":{"type":"overloaded_error","message":"later"}})");
  EXPECT_EQ(events_of(error_events({400, "no", "", ""}, Dialect::anthropic))[0].data["error"]["type"],
            "invalid_request_error");
}

}  // namespace
}  // namespace kt
