// OpenAI's Responses: requests become chats, answers become items, and both may be kept.
#include "runtime/serve/openai/responses.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "runtime/serve/openai/responses_input.h"
#include "tests/serve/support.h"

namespace kt {
namespace {

constexpr std::string_view kCall =
    "<tool_call>\n<function=f>\n<parameter=n>\n5\n</parameter>\n</function>\n</tool_call>";
const std::string kTools =
    R"("tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object",
        "properties": {"n": {"type": "integer"}}}}])";

std::string body(const std::string& members, const std::string& input = R"("hi")") {
  return R"({"model": "m", "input": )" + input + (members.empty() ? "" : ", " + members) + "}";
}

ServedModel thinking_model() {
  ServedModel model = fake_model();
  model.tools = find_tool_format("qwen3_coder");
  model.reasoning = find_reasoning_format("qwen3");
  return model;
}

// A server that keeps responses, and what one client gets of it.
struct Desk {
  explicit Desk(size_t bytes = 1 << 20, ServedModel served = thinking_model())
      : store(bytes), model(std::move(served)) {}

  OrError<Job> parse(const std::string& request, const std::string& owner = "") {
    return parse_response_request(request, model, {store, owner, model.max_context});
  }
  Job job(const std::string& request) { return job_of(parse(request)); }
  Json answer(const std::string& request, std::string_view text, Finish finish = kStopped) {
    Job asked = job(request);
    return Json::parse(play(asked, text, 4, std::move(finish)));
  }
  ApiError error(const std::string& request, const std::string& owner = "") {
    const OrError<Job> parsed = parse(request, owner);
    const ApiError* found = std::get_if<ApiError>(&parsed);
    if (!found) ADD_FAILURE() << "taken: " << request;
    return found ? *found : ApiError{};
  }
  std::string prompt(const std::string& request) { return prompt_of(job(request)); }

  ResponseStore store;
  ServedModel model;
};

std::vector<Json> events_of(const std::string& stream) {
  std::vector<Json> events;
  for (size_t at = 0; at < stream.size(); at = stream.find("\n\n", at) + 2) {
    const size_t line = stream.find('\n', at), end = stream.find("\n\n", at);
    EXPECT_EQ(stream.substr(line, 7), "\ndata: ");
    events.push_back(Json::parse(stream.substr(line + 7, end - line - 7)));
    EXPECT_EQ(stream.substr(at, line - at), "event: " + events.back()["type"].get<std::string>());
    EXPECT_EQ(events.back()["sequence_number"], events.size() - 1);
  }
  return events;
}

std::vector<std::string> types_of(const std::vector<Json>& events) {
  std::vector<std::string> types;
  for (const Json& event : events) {
    const std::string type = event["type"];
    if (types.empty() || types.back() != type) types.push_back(type);
  }
  return types;
}

Json messages_of(const std::string& items) { return to_messages(Json::parse(items), "input"); }

TEST(Responses, AnswerIsItemsInOrderWithUsage) {
  Desk desk;
  const Json answer =
      desk.answer(body(kTools + R"(, "instructions": "be", "metadata": {"a": "b"}, "temperature": 0.7)"),
                  "Hm.</think>\n\nI call.\n" + std::string(kCall) + "\nDone.");

  EXPECT_TRUE(answer["id"].get<std::string>().starts_with("resp_"));
  EXPECT_EQ(answer["object"], "response");
  EXPECT_EQ(answer["status"], "completed");
  EXPECT_EQ(answer["model"], "m");
  EXPECT_TRUE(answer["error"].is_null() && answer["incomplete_details"].is_null());
  EXPECT_EQ(answer["instructions"], "be");
  EXPECT_EQ(answer["metadata"]["a"], "b");
  EXPECT_EQ(answer["temperature"].dump(), "0.7");
  ASSERT_EQ(answer["output"].size(), 4u) << answer;
  const Json& output = answer["output"];
  EXPECT_EQ(output[0]["content"].dump(), R"([{"type":"reasoning_text","text":"Hm."}])");
  EXPECT_EQ(output[0]["summary"].dump(), "[]");
  EXPECT_EQ(output[1]["content"].dump(), R"([{"type":"output_text","text":"I call.","annotations":[],"logprobs":[]}])");
  EXPECT_EQ(output[1]["role"], "assistant");
  EXPECT_EQ(output[2]["type"], "function_call");
  EXPECT_EQ(output[2]["name"], "f");
  EXPECT_EQ(output[2]["arguments"], R"({"n": 5})");
  EXPECT_FALSE(output[2].contains("namespace"));
  EXPECT_TRUE(output[3]["content"][0]["text"].get<std::string>().ends_with("Done.")) << output[3];
  for (const Json& item : output) EXPECT_EQ(item["status"], "completed");
  const Json& usage = answer["usage"];
  EXPECT_GT(usage["output_tokens_details"]["reasoning_tokens"], 0);
  EXPECT_EQ(usage["total_tokens"].get<int>(), usage["input_tokens"].get<int>() + usage["output_tokens"].get<int>());
}

TEST(Responses, StreamTheSameItemsAsTheWholeAnswerHas) {
  const std::string text = "Hm.</think>Well.\n" + std::string(kCall) + "\n" + std::string(kCall) + "\nBye.";
  for (const size_t bytes : {1, 5, 1000}) {
    SCOPED_TRACE(bytes);
    Desk desk;
    Job job = desk.job(body(kTools + R"(, "stream": true)"));
    const std::vector<Json> events = events_of(play(job, text, bytes));

    std::vector<std::string> expected = {"response.created", "response.in_progress"};
    for (const char* kind :
         {"reasoning_text", "output_text", "function_call_arguments", "function_call_arguments", "output_text"}) {
      const bool part = kind != std::string("function_call_arguments");
      expected.push_back("response.output_item.added");
      if (part) expected.push_back("response.content_part.added");
      expected.push_back(fmt::format("response.{}.delta", kind));
      expected.push_back(fmt::format("response.{}.done", kind));
      if (part) expected.push_back("response.content_part.done");
      expected.push_back("response.output_item.done");
    }
    expected.push_back("response.completed");
    EXPECT_EQ(types_of(events), expected);
    EXPECT_EQ(events[0]["response"]["status"], "in_progress");
    EXPECT_TRUE(events[0]["response"]["usage"].is_null());
    Json done = Json::array();
    std::string delta;
    for (const Json& event : events) {
      const std::string type = event["type"];
      if (type == "response.output_item.added") {
        EXPECT_EQ(event["item"]["status"], "in_progress");
        EXPECT_EQ(event["output_index"], done.size());
        delta = "";
      } else if (type == "response.output_item.done") {
        EXPECT_EQ(event["output_index"], done.size());
        done.push_back(event["item"]);
        const Json& item = event["item"];
        EXPECT_EQ(delta, item.contains("arguments") ? item["arguments"] : item["content"][0]["text"]);
      } else if (event.contains("delta")) {
        EXPECT_EQ(event["output_index"], done.size());
        delta += event["delta"].get<std::string>();
      }
    }
    EXPECT_EQ(done, events.back()["response"]["output"]);
    EXPECT_NE(done[2]["call_id"], done[3]["call_id"]);
    EXPECT_GT(events.back()["response"]["usage"]["output_tokens"], 0);
  }
}

TEST(Responses, SayWhatEndedThem) {
  Desk desk;
  const Json cut = desk.answer(body(R"("max_output_tokens": 9)"), "</think>abc", {Finish::Kind::length, {}, ""});
  EXPECT_EQ(cut["status"], "incomplete");
  EXPECT_EQ(cut["incomplete_details"]["reason"], "max_output_tokens");
  EXPECT_EQ(cut["output"][0]["status"], "incomplete");
  EXPECT_EQ(cut["max_output_tokens"], 9);

  const Json in_call =
      desk.answer(body(kTools), "</think>" + std::string(kCall.substr(0, 50)), {Finish::Kind::length, {}, ""});
  EXPECT_EQ(in_call["output"].back()["type"], "function_call");
  EXPECT_EQ(in_call["output"].back()["status"], "incomplete");

  const Json aborted = desk.answer(body(""), "</think>abc", {Finish::Kind::abort, {}, ""});
  EXPECT_EQ(aborted["status"], "cancelled");
  EXPECT_EQ(aborted["output"][0]["content"][0]["text"], "abc");
}

TEST(Responses, AStreamThatFailsEndsWithTheReasonAndWhatThereWas) {
  Desk desk;
  Job job = desk.job(body(R"("stream": true)"));
  std::string stream = job.answer->start();
  stream += job.answer->take(0, {.text = "</think>ab", .completion_tokens = 1});
  stream += job.answer->fail({500, "a rank was lost", "", "engine_error"});

  const std::vector<Json> events = events_of(stream);
  EXPECT_EQ(events[events.size() - 2]["type"], "response.output_item.done");
  EXPECT_EQ(events.back()["type"], "response.failed");
  const Json& response = events.back()["response"];
  EXPECT_EQ(response["status"], "failed");
  EXPECT_EQ(response["error"].dump(), R"({"code":"server_error","message":"a rank was lost"})");
  EXPECT_EQ(response["output"][0]["content"][0]["text"], "ab");
}

TEST(Responses, ItemsBecomeMessages) {
  EXPECT_EQ(messages_of(R"([{"role": "user", "content": "q"},
                            {"role": "developer", "content": [{"type": "input_text", "text": "d"}]}])")
                .dump(),
            R"([{"role":"user","content":"q"},{"role":"developer","content":"d"}])");
  EXPECT_EQ(
      messages_of(R"([
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I call."}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "g", "namespace": "mcp__x", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "*** \"x\"\n"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "3"}])")
          .dump(),
      R"([{"role":"assistant","content":"I call.","reasoning_content":"Hm.","tool_calls":[)"
      R"({"type":"function","function":{"name":"f","arguments":"{}"},"id":"a"},)"
      R"({"type":"function","function":{"name":"mcp__x__g","arguments":"{}"},"id":"b"},)"
      R"({"type":"function","function":{"name":"patch","arguments":"{\"input\":\"*** \\\"x\\\"\\n\"}"},"id":"c"}]},)"
      R"({"role":"tool","content":"1","tool_call_id":"a"},)"
      R"({"role":"tool","content":"2","tool_call_id":"b"},)"
      R"({"role":"tool","content":"3","tool_call_id":"c"}])");
}

TEST(Responses, AHistoryThatIsOddIsTakenAsItIs) {
  Desk desk;
  const std::string prompt = desk.prompt(body(kTools, R"([
      {"role": "user", "content": "q"},
      {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{\"n\": "},
      {"type": "function_call", "call_id": "b", "name": "f", "arguments": "null"},
      {"type": "function_call_output", "call_id": "b", "output": {"content": "2"}},
      {"role": "developer", "content": "d"},
      {"type": "function_call_output", "call_id": "a", "output": "1"}])"));
  EXPECT_TRUE(prompt.ends_with(R"(tool:1;tool:{"content":"2"};system:d;assistant:)")) << prompt;
}

TEST(Responses, ReasoningComesBackFromWhateverAClientKept) {
  const auto reasoning = [](const std::string& members) {
    const Json messages = messages_of(R"([{"type": "reasoning", )" + members + R"(},
                                          {"role": "assistant", "content": "x"}])");
    return messages[0].value("reasoning_content", "");
  };
  EXPECT_EQ(reasoning(R"("summary": [], "content": [{"type": "reasoning_text", "text": "A"}])"), "A");
  EXPECT_EQ(reasoning(fmt::format(R"("summary": [], "encrypted_content": "{}")", seal_reasoning("B"))), "B");
  EXPECT_EQ(reasoning(R"("summary": [{"type": "summary_text", "text": "C"}], "content": null)"), "C");
  EXPECT_EQ(reasoning(R"("summary": [], "encrypted_content": "gAAAAABo")"), "") << "another server's";
}

TEST(Responses, ReasoningIsGivenInEveryFormThatIsAskedFor) {
  Desk desk;
  const std::string more = R"("reasoning": {"effort": "high", "summary": "auto"},
                              "include": ["reasoning.encrypted_content"])";
  const Json item = desk.answer(body(more), "Hm.</think>x")["output"][0];
  EXPECT_EQ(item["summary"].dump(), R"([{"type":"summary_text","text":"Hm."}])");
  EXPECT_EQ(item["content"][0]["text"], "Hm.");
  EXPECT_EQ(messages_of(Json::array({{{"type", "reasoning"}, {"encrypted_content", item["encrypted_content"]}}}).dump())
                .at(0)["reasoning_content"],
            "Hm.");

  Job job = desk.job(body(more + R"(, "stream": true)"));
  std::string summary;
  std::vector<std::string> parts;
  for (const Json& event : events_of(play(job, "Hm.</think>x", 1))) {
    const std::string type = event["type"];
    if (type == "response.reasoning_summary_text.delta") summary += event["delta"].get<std::string>();
    if (type.find("summary_part") != type.npos) parts.push_back(event["part"]["text"]);
  }
  EXPECT_EQ(summary, "Hm.");
  EXPECT_EQ(parts, (std::vector<std::string>{"", "Hm."}));
}

TEST(Responses, WhatAModelCannotReadIsSaidOrPassedOver) {
  const Json messages = messages_of(R"([
      {"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}, {"type": "input_text", "text": "?"}]},
      {"type": "web_search_call", "id": "ws_1", "status": "completed"},
      {"type": "compaction", "encrypted_content": "x"}])");
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0]["content"], "[image: this model reads text only]\n?");
}

TEST(Responses, CustomToolsTakeAndGiveText) {
  Desk desk;
  const std::string tools = R"("tools": [{"type": "custom", "name": "patch", "description": "Edits.",
      "format": {"type": "grammar", "syntax": "lark", "definition": "start: LINE+"}}])";
  Job job = desk.job(body(tools + R"(, "stream": true)"));
  EXPECT_NE(prompt_of(job).find("start: LINE+"), std::string::npos);
  const std::vector<Json> events =
      events_of(play(job,
                     "</think><tool_call>\n<function=patch>\n<parameter=input>\n*** Begin\n+\"a\"\n</parameter>\n"
                     "</function>\n</tool_call>",
                     7));
  const Json& item = events.back()["response"]["output"][0];
  EXPECT_EQ(item["type"], "custom_tool_call");
  EXPECT_EQ(item["name"], "patch");
  EXPECT_EQ(item["input"], "*** Begin\n+\"a\"");
  std::string delta;
  for (const Json& event : events) {
    EXPECT_NE(event["type"], "response.function_call_arguments.delta");
    if (event["type"] == "response.custom_tool_call_input.delta") delta += event["delta"].get<std::string>();
  }
  EXPECT_EQ(delta, item["input"]);
}

TEST(Responses, NamespacesAreApartForTheClientAndOneForTheModel) {
  Desk desk;
  const Json answer =
      desk.answer(body(R"("tools": [{"type": "namespace", "name": "mcp__x__", "description": "All of x.", "tools": [
                  {"type": "function", "name": "f", "parameters": {"type": "object"}}]}])"),
                  "</think><tool_call>\n<function=mcp__x__f>\n</function>\n</tool_call>");
  EXPECT_EQ(answer["output"][0]["name"], "f");
  EXPECT_EQ(answer["output"][0]["namespace"], "mcp__x__");
  EXPECT_EQ(answer["tools"][0]["type"], "namespace");
}

TEST(Responses, ToolsThatASearchFoundAreKnownFromThenOn) {
  Desk desk;
  const std::string search = R"("tools": [{"type": "tool_search", "execution": "client", "description": "Finds.",
      "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}}])";
  const Json asked =
      desk.answer(body(search),
                  "</think><tool_call>\n<function=tool_search>\n<parameter=query>\nx\n</parameter>\n</function>\n"
                  "</tool_call>");
  Json items = asked["output"];
  EXPECT_EQ(items[0]["type"], "tool_search_call");
  EXPECT_EQ(items[0]["arguments"]["query"], "x");
  items.push_back({{"type", "tool_search_output"},
                   {"call_id", items[0]["call_id"]},
                   {"tools", Json::parse(R"([{"type": "function", "name": "found"}])")}});
  const std::string prompt = desk.prompt(body(search, items.dump()));
  EXPECT_NE(prompt.find(R"("function":{"name":"found"})"), std::string::npos) << prompt;
}

TEST(Responses, ToolsOfOthersAreLeftOutBesideFunctionsAndElseRefused) {
  Desk desk;
  const Json answer = desk.answer(
      body(R"("tools": [{"type": "web_search"}, {"type": "function", "name": "f"}, {"type": "local_shell"}])"), "x");
  EXPECT_EQ(answer["tools"].dump(), R"([{"type":"function","name":"f"}])");
  EXPECT_NE(desk.error(body(R"("tools": [{"type": "web_search"}])")).message.find("web_search"), std::string::npos);
  const ApiError chosen = desk.error(body(kTools + R"(, "tool_choice": {"type": "web_search"})"));
  EXPECT_EQ(chosen.param, "tool_choice.type");
}

TEST(Responses, ToolChoiceIsHeld) {
  Desk desk;
  const std::string two = R"("tools": [{"type": "function", "name": "f"}, {"type": "function", "name": "g"}])";
  EXPECT_EQ(desk.job(body(two + R"(, "tool_choice": "required")")).grammars.size(), 1u);
  const Job named = desk.job(body(two + R"(, "tool_choice": {"type": "function", "name": "g"})"));
  ASSERT_EQ(named.grammars.size(), 1u);
  EXPECT_EQ(named.grammars[0].structural_tag.find("\\\"f\\\""), std::string::npos);
  const std::string allowed = R"(, "tool_choice": {"type": "allowed_tools", "mode": "required",
                                  "tools": [{"type": "function", "name": "g"}]})";
  const Job some = desk.job(body(two + allowed));
  ASSERT_EQ(some.grammars.size(), 1u);
  EXPECT_EQ(some.grammars[0].structural_tag.find("\\\"f\\\""), std::string::npos);
  EXPECT_EQ(prompt_of(desk.job(body(two + R"(, "tool_choice": "none")"))).find("function"), std::string::npos);
  EXPECT_NE(desk.error(body(two + R"(, "tool_choice": {"type": "function", "name": "h"})")).message.find("'h'"),
            std::string::npos);
}

TEST(Responses, TextFormatsAreHeldAndTheirMistakesNamed) {
  Desk desk;
  const Job job = desk.job(body(R"("text": {"format": {"type": "json_schema", "name": "s", "strict": true,
      "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
                 "additionalProperties": false}}})"));
  ASSERT_EQ(job.grammars.size(), 1u);
  EXPECT_EQ(desk.job(body(R"("text": {"format": {"type": "json_object"}})")).grammars.size(), 1u);
  EXPECT_TRUE(desk.job(body(R"("text": {"format": {"type": "text"}, "verbosity": "low"})")).grammars.empty());
  const ApiError keyword = desk.error(
      body(R"("text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object", "not": {}}}})"));
  EXPECT_TRUE(keyword.param.starts_with("text.format")) << keyword.param;
  EXPECT_EQ(desk.error(body(R"("text": {"format": {"type": "yaml"}})")).param, "text.format.type");
}

TEST(Responses, MistakesOfToolsAreNamedWhereTheClientMadeThem) {
  Desk desk;
  const ApiError error = desk.error(
      body(R"("tools": [{"type": "web_search"}, {"type": "function", "name": "f", "parameters": {"type": "thing"}}])"));
  EXPECT_EQ(error.param, "tools[1].parameters.type");
  EXPECT_TRUE(error.message.starts_with("tools[1].parameters.type: ")) << error.message;
  EXPECT_NE(desk.error(body(R"("tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "f"}])"))
                .message.find("another tool"),
            std::string::npos);
}

TEST(Responses, WhatCannotBeDoneIsRefusedByName) {
  Desk desk;
  const std::pair<const char*, const char*> cases[] = {{R"("background": true)", "background"},
                                                       {R"("conversation": "c")", "conversation"},
                                                       {R"("prompt": {"id": "p"})", "prompt"},
                                                       {R"("truncation": "some")", "truncation"},
                                                       {R"("n": 2)", "n"},
                                                       {R"("metadata": {"a": 1})", "metadata.a"},
                                                       {R"("include": "x")", "include"},
                                                       {R"("max_output_tokens": 0)", "max_output_tokens"},
                                                       {R"("previous_response_id": "resp_no")", "previous_response_id"},
                                                       {R"("max_tokens": 5)", "max_tokens"},
                                                       {R"("response_format": {"type": "text"})", "response_format"}};
  for (const auto& [members, param] : cases) {
    const ApiError error = desk.error(body(members));
    EXPECT_EQ(error.param, param) << error.message;
    EXPECT_EQ(error.status, 400);
  }
  EXPECT_EQ(desk.error(R"({"messages": []})").message, "messages: is input here");
  EXPECT_EQ(desk.error(R"({"model": "m"})").param, "input");
  EXPECT_EQ(desk.error(body("", "5")).param, "input");
  EXPECT_EQ(desk.error(body("", R"([{"type": "thing"}])")).param, "input[0].type");
  EXPECT_EQ(desk.error(body("", R"([{"role": "user"}])")).param, "input[0].content");
  EXPECT_EQ(desk.error(body("", R"("REFUSE")")).param, "input");
  const ApiError reference = desk.error(body("", R"([{"type": "item_reference", "id": "msg_no"}])"));
  EXPECT_EQ(reference.status, 404);
}

TEST(Responses, LogprobsAreThoseOfTheText) {
  Desk desk;
  const Json answer =
      desk.answer(body(R"("include": ["message.output_text.logprobs"], "top_logprobs": 2)"), "Hm.</think>abcdefgh");
  EXPECT_EQ(answer["output"][0]["content"][0].contains("logprobs"), false);
  const Json& logprobs = answer["output"][1]["content"][0]["logprobs"];
  EXPECT_FALSE(logprobs.empty());
  EXPECT_EQ(logprobs[0]["token"], "t");
  EXPECT_EQ(
      desk.job(body(R"("include": ["message.output_text.logprobs"], "top_logprobs": 2)")).requests[0].top_logprobs, 2);
}

TEST(Responses, GoOnFromAStoredOne) {
  Desk desk;
  const std::string first = desk.answer(body(R"("instructions": "old")"), "</think>one")["id"];
  const std::string second =
      desk.answer(body(fmt::format(R"("previous_response_id": "{}")", first), R"("more")"), "</think>two")["id"];
  const std::string third = body(fmt::format(R"("previous_response_id": "{}", "instructions": "new")", second));

  EXPECT_EQ(desk.prompt(third), "system:new;user:hi;assistant:one;user:more;assistant:two;user:hi;assistant:");
  const ApiError stranger = [&] {
    const OrError<Job> parsed = desk.parse(third, "another key");
    return std::get<ApiError>(parsed);
  }();
  EXPECT_EQ(stranger.code, "previous_response_not_found");
  EXPECT_TRUE(desk.store.erase(first, ""));
  EXPECT_NE(desk.error(third).message.find(first), std::string::npos);
}

TEST(Responses, AToolLoopHasTheSamePromptWithAndWithoutTheStore) {
  Desk desk;
  const Json called = desk.answer(body(kTools), "Hm.</think>" + std::string(kCall));
  const Json& call = called["output"][1];
  const Json result = {{"type", "function_call_output"}, {"call_id", call["call_id"]}, {"output", "6"}};

  const std::string stored =
      desk.prompt(body(kTools + fmt::format(R"(, "previous_response_id": "{}")", called["id"].get<std::string>()),
                       "[" + result.dump() + "]"));
  Json items = {{{"role", "user"}, {"content", "hi"}}};
  for (const Json& item : called["output"]) items.push_back(item);
  items.push_back(result);
  const std::string stateless = desk.prompt(body(kTools + R"(, "store": false)", items.dump()));
  Json references = items;
  references[2] = {{"type", "item_reference"}, {"id", call["id"]}};

  EXPECT_EQ(stored, stateless);
  EXPECT_EQ(stored, desk.prompt(body(kTools, references.dump())));
  EXPECT_NE(stored.find(call["call_id"].get<std::string>()), stored.npos);
  EXPECT_TRUE(stored.ends_with("tool:6;assistant:")) << stored;
}

TEST(Responses, AreNotKeptWhereTheClientSaysSoOrHasGone) {
  Desk desk;
  const Json answer = desk.answer(body(R"("store": false)"), "</think>x");
  EXPECT_EQ(answer["store"], false);
  EXPECT_EQ(desk.store.find(answer["id"], ""), nullptr);

  std::string id;
  {
    Job job = desk.job(body(R"("stream": true)"));
    id = job.id;
    job.answer->start();
    ASSERT_NE(desk.store.find(id, ""), nullptr);
    EXPECT_TRUE(desk.store.find(id, "")->in_progress);
    EXPECT_NE(desk.error(body(fmt::format(R"("previous_response_id": "{}")", id))).message.find("in progress"),
              std::string::npos);
  }
  EXPECT_EQ(desk.store.find(id, ""), nullptr);

  Job job = desk.job(body(R"("stream": true)"));
  job.answer->start();
  EXPECT_TRUE(desk.store.erase(job.id, ""));
  job.answer->take(0, {.text = "</think>x", .completion_tokens = 1, .finish = kStopped});
  job.answer->finish();
  EXPECT_EQ(desk.store.find(job.id, ""), nullptr) << "deleted while it was streamed";
}

StoredResponse stored(const std::string& id, const std::string& previous = "", size_t bytes = 1000) {
  const Json response = {{"id", id}, {"output", Json::array()}, {"padding", std::string(bytes, 'x')}};
  return {.id = id, .previous = previous, .owner = "", .input = "[]", .response = dump(response)};
}

TEST(ResponseStore, ForgetsWhatNobodyCameBackToForLongest) {
  ResponseStore store(3 * 2200);
  for (const char* id : {"a", "b", "c"}) store.put(stored(id));
  EXPECT_NE(store.find("a", ""), nullptr);
  store.put(stored("d"));

  EXPECT_EQ(store.find("b", ""), nullptr);
  for (const char* id : {"a", "c", "d"}) EXPECT_NE(store.find(id, ""), nullptr) << id;
  store.put(stored("e", "", 100'000));
  for (const char* id : {"a", "c", "d", "e"}) EXPECT_EQ(store.find(id, ""), nullptr) << id << ": e is larger than all";
}

TEST(ResponseStore, GoingOnFromAResponseKeepsThoseBeforeIt) {
  ResponseStore store(3 * 2200);
  store.put(stored("a"));
  store.put(stored("b", "a"));
  store.put(stored("other"));
  EXPECT_NO_THROW(store.history("b", ""));
  store.put(stored("c", "b"));

  EXPECT_EQ(store.find("other", ""), nullptr);
  EXPECT_NO_THROW(store.history("c", ""));
}

TEST(Responses, TruncationTakesTheOldestTurnsOutUntilTheRestFits) {
  Desk desk;
  desk.model.max_context = 200;
  std::string items = R"([{"role": "developer", "content": "rules"})";
  for (int i = 0; i < 8; ++i)
    items += fmt::format(
        R"(, {{"role": "user", "content": "question {0} {1}"}}, {{"role": "assistant", "content": "a{0}"}})", i,
        std::string(30, '.'));
  items += R"(, {"role": "user", "content": "last"}])";

  const std::string prompt = desk.prompt(body(R"("truncation": "auto", "max_output_tokens": 20)", items));
  EXPECT_LE(prompt.size(), 180u);
  EXPECT_TRUE(prompt.starts_with("system:rules;user:question ")) << prompt;
  EXPECT_TRUE(prompt.ends_with("user:last;assistant:")) << prompt;
  const size_t turn = std::string("user:question 0 ;assistant:a0;").size() + 30;
  EXPECT_GT(prompt.size() + turn, 180u) << "one more turn had fitted";
  EXPECT_GT(desk.prompt(body("", items)).size(), 200u);
}

}  // namespace
}  // namespace kt
