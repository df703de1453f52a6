// Requests become engine requests, emissions become answers: no socket, no engine.
#include <gtest/gtest.h>

#include "runtime/serve/openai/openai_chat.h"
#include "runtime/serve/openai/openai_completions.h"
#include "runtime/serve/sglang/generate.h"
#include "runtime/serve/sglang/text_endpoints.h"
#include "runtime/text/answers/stop_automaton.h"
#include "tests/serve/support.h"

namespace kt {
namespace {

Job chat(const std::string& members, const ServedModel& model = fake_model()) {
  return job_of(parse_chat(R"({"messages": [{"role": "user", "content": "hi"}])" + members + "}", model));
}

Emission token(int32_t id, std::string text, int completion_tokens) {
  Emission emission{.text = std::move(text), .prompt_tokens = 3, .completion_tokens = completion_tokens};
  emission.tokens.push_back({id, -0.5f, {{id, -0.5f}, {'z', -1.5f}}});
  return emission;
}

Emission last(Emission emission, Finish finish) {
  emission.finish = std::move(finish);
  return emission;
}

std::vector<Json> events_of(const std::string& stream) {
  std::vector<Json> events;
  for (size_t at = 0; at < stream.size();) {
    const size_t end = stream.find("\n\n", at);
    const std::string line = stream.substr(at, end - at);
    EXPECT_TRUE(line.starts_with("data: ")) << line;
    events.push_back(line == "data: [DONE]" ? Json("DONE") : Json::parse(line.substr(6)));
    at = end + 2;
  }
  return events;
}

TEST(Chat, AnswersWithTheFieldsOfTheReferenceInTheirOrder) {
  Job job = chat(R"(, "model": "m", "rid": "c79f")");
  job.answer->take(0, token('a', "a", 1));
  job.answer->take(0, last(token(kFakeEos, "", 2), kStopped));

  Json body = Json::parse(job.answer->finish());
  EXPECT_GT(body["created"], 1700000000);
  body["created"] = 0;
  EXPECT_EQ(
      body.dump(),
      R"({"id":"c79f","object":"chat.completion","created":0,"model":"m","choices":[{"index":0,)"
      R"("message":{"role":"assistant","content":"a","reasoning_content":null,"tool_calls":null},)"
      R"("logprobs":null,"finish_reason":"stop","matched_stop":256}],)"
      R"("usage":{"prompt_tokens":18,"total_tokens":20,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":0},)"
      R"("reasoning_tokens":0},"metadata":{"weight_version":"default"}})");
}

TEST(Chat, NamesWhatEndedTheText) {
  const auto end_with = [](Finish finish) {
    Job job = chat("");
    job.answer->take(0, last({}, std::move(finish)));
    const Json choice = Json::parse(job.answer->finish())["choices"][0];
    return choice["finish_reason"].dump() + choice["matched_stop"].dump() + choice["message"]["content"].dump();
  };
  EXPECT_EQ(end_with({Finish::Kind::length, {}, ""}), R"("length"nullnull)");
  EXPECT_EQ(end_with({Finish::Kind::stop, std::string("END"), ""}), R"("stop""END"null)");
  EXPECT_EQ(end_with({Finish::Kind::abort, {}, "asked"}), R"("stop"nullnull)");
}

TEST(Chat, StreamsRoleTextEmptyFinishUsageDone) {
  Job job = chat(R"(, "stream": true, "stream_options": {"include_usage": true})");
  std::string stream = job.answer->start();
  stream += job.answer->take(0, token('a', "a", 1));
  stream += job.answer->take(0, token('b', "", 2));  // held back: no event
  stream += job.answer->take(0, last(token(kFakeEos, "bc", 3), kStopped));
  stream += job.answer->finish();

  const std::vector<Json> events = events_of(stream);
  ASSERT_EQ(events.size(), 6u);
  EXPECT_EQ(
      events[0]["choices"].dump(),
      R"([{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null,"matched_stop":null}])");
  EXPECT_EQ(events[1]["choices"][0]["delta"].dump(), R"({"content":"a"})");
  EXPECT_EQ(events[2]["choices"][0]["delta"].dump(), R"({"content":"bc"})");
  EXPECT_EQ(events[3]["choices"].dump(),
            R"([{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","matched_stop":256}])");
  EXPECT_TRUE(events[3]["usage"].is_null());
  EXPECT_EQ(events[4]["choices"].dump(), "[]");
  EXPECT_EQ(events[4]["usage"]["completion_tokens"], 3);
  EXPECT_EQ(events[5], "DONE");
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(events[i]["id"], job.id);
    EXPECT_EQ(events[i]["object"], "chat.completion.chunk");
  }
  EXPECT_EQ(job.id.size(), 32u);
}

const Emission kReading{.prompt_tokens = 300, .cached_tokens = 64, .progress = PromptProgress{128, 1.5}};
constexpr std::string_view kRead = R"({"total":300,"cache":64,"processed":128,"time_ms":1500})";

TEST(Chat, StreamsTellHowFarThePromptIsBeforeTheRoleAndOnlyWhenAsked) {
  EXPECT_FALSE(chat(R"(, "stream": true)").requests[0].report_progress);
  EXPECT_FALSE(chat(R"(, "return_progress": true)").requests[0].report_progress) << "nothing to tell it in";
  Job job = chat(R"(, "stream": true, "return_progress": true, "stream_options": {"include_usage": true})");
  EXPECT_TRUE(job.requests[0].report_progress);

  std::vector<Json> events = events_of(job.answer->take(0, kReading) + job.answer->take(0, token('a', "a", 1)));

  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0]["prompt_progress"].dump(), kRead);
  EXPECT_EQ(events[0]["choices"][0]["delta"].dump(), "{}");
  EXPECT_TRUE(events[0].at("usage").is_null());
  EXPECT_EQ(events[1]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_FALSE(events[1].contains("prompt_progress"));
}

TEST(Chat, SaysNothingBeforeTheFirstToken) {
  Job job = chat(R"(, "stream": true, "n": 2)");
  EXPECT_EQ(job.answer->start(), "");
  const std::vector<Json> events = events_of(job.answer->take(1, token('a', "a", 1)));
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(events[0]["choices"][0]["index"], 1);
  EXPECT_EQ(events[1]["choices"][0]["delta"].dump(), R"({"content":"a"})");
}

TEST(Chat, EveryChoiceFinishesWhenItEnds) {
  Job job = chat(R"(, "stream": true, "n": 2)");
  job.answer->take(0, token('a', "a", 1));
  const std::vector<Json> first = events_of(job.answer->take(1, last(token('b', "b", 1), kStopped)));
  EXPECT_EQ(first.back()["choices"][0]["index"], 1);
  EXPECT_EQ(first.back()["choices"][0]["finish_reason"], "stop");
  const std::vector<Json> second = events_of(job.answer->take(0, last(token('c', "c", 2), kStopped)));
  EXPECT_EQ(second.back()["choices"][0]["index"], 0);
  EXPECT_EQ(job.answer->finish(), kSseDone);
}

TEST(Chat, LeavesReasoningOutWhenItIsNotWanted) {
  ServedModel model = fake_model();
  model.reasoning = find_reasoning_format("qwen3");
  Job job = chat(R"(, "include_reasoning": false)", model);
  const Json message = [&] {
    job.answer->take(0, last(token('a', "<think>hm</think>yes", 1), kStopped));
    return Json::parse(job.answer->finish())["choices"][0]["message"];
  }();
  EXPECT_EQ(message["content"], "yes");
  EXPECT_TRUE(message["reasoning_content"].is_null());
}

TEST(Chat, GivesTheUsageSoFarInEveryChunkButTheFinish) {
  Job job = chat(R"(, "stream": true, "stream_options": {"continuous_usage_stats": true})");
  std::string stream = job.answer->start();
  stream += job.answer->take(0, last(token('a', "a", 1), kStopped));
  stream += job.answer->finish();

  const std::vector<Json> events = events_of(stream);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0]["usage"]["completion_tokens"], 0);
  EXPECT_EQ(events[1]["usage"]["completion_tokens"], 1);
  EXPECT_FALSE(events[2].contains("usage"));
}

TEST(Chat, LogprobsComeWithTheBytesOfEachToken) {
  Job job = chat(R"(, "logprobs": true, "top_logprobs": 2)");
  EXPECT_TRUE(job.requests[0].return_logprob);
  EXPECT_EQ(job.requests[0].top_logprobs, 2);
  job.answer->take(0, last(token(0xe2, "", 1), kStopped));

  const Json content = Json::parse(job.answer->finish())["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(
      content.dump(),
      "[{\"token\":\"\uFFFD\",\"bytes\":[226],\"logprob\":-0.5,\"top_logprobs\":["
      "{\"token\":\"\uFFFD\",\"bytes\":[226],\"logprob\":-0.5},{\"token\":\"z\",\"bytes\":[122],\"logprob\":-1.5}]}]");
}

TEST(Chat, ManyChoicesShareOnePromptAndDrawFromDifferentSeeds) {
  Job job = chat(R"(, "n": 3, "seed": -1)");
  ASSERT_EQ(job.requests.size(), 3u);
  EXPECT_EQ(*job.requests[0].sampling.seed, UINT64_MAX);
  EXPECT_EQ(*job.requests[1].sampling.seed, 0u);
  EXPECT_NE(job.requests[1].rid, job.requests[2].rid);
  for (size_t i = 0; i < 3; ++i) job.answer->take(i, last(token('a', "a", 1), kStopped));

  const Json body = Json::parse(job.answer->finish());
  EXPECT_EQ(body["choices"][2]["index"], 2);
  EXPECT_EQ(body["usage"]["prompt_tokens"], 18);
  EXPECT_EQ(body["usage"]["completion_tokens"], 3);
}

TEST(Chat, TakesTheRequestBeforeTheModelsDefaultsBeforeOne) {
  ServedModel model = fake_model();
  EXPECT_EQ(chat("", model).requests[0].sampling.temperature, 1.0f);
  model.defaults = {.temperature = 0.6f, .top_p = 0.95f, .min_p = {}, .repetition_penalty = {}, .top_k = 20};
  const SamplingParams sampling = chat(R"(, "temperature": 0, "top_k": null)", model).requests[0].sampling;
  EXPECT_EQ(sampling.temperature, 0.0f);
  EXPECT_EQ(sampling.top_p, 0.95f);
  EXPECT_EQ(sampling.top_k, 20);
  EXPECT_EQ(sampling.max_new_tokens, -1);
}

TEST(Chat, ReadsEverySamplingParameter) {
  const SamplingParams s = chat(R"(, "top_k": 0, "min_p": 0.5, "frequency_penalty": 1, "presence_penalty": -1,
      "repetition_penalty": 1.1, "seed": 18446744073709551615, "logit_bias": {"5": -100}, "max_tokens": 9,
      "max_completion_tokens": 7, "min_tokens": 2, "stop": "END", "stop_regex": ["a+b", "[0-9]c"],
      "stop_token_ids": [3], "ignore_eos": true, "skip_special_tokens": false, "no_stop_trim": true)")
                               .requests[0]
                               .sampling;
  EXPECT_EQ(s.top_k, -1);
  EXPECT_EQ(s.min_p, 0.5f);
  EXPECT_EQ(s.frequency_penalty, 1.0f);
  EXPECT_EQ(s.presence_penalty, -1.0f);
  EXPECT_EQ(s.repetition_penalty, 1.1f);
  EXPECT_EQ(*s.seed, UINT64_MAX);
  EXPECT_EQ(s.logit_bias, (std::vector<std::pair<int32_t, float>>{{5, -100.0f}}));
  EXPECT_EQ(s.max_new_tokens, 7);
  EXPECT_EQ(s.min_new_tokens, 2);
  EXPECT_EQ(s.stop, std::vector<std::string>{"END"});
  StopWalk walk(*s.stop_regex);
  EXPECT_FALSE(walk.push('7'));
  EXPECT_EQ(walk.push('c')->what, "[0-9]c");
  EXPECT_EQ(s.stop_token_ids, std::vector<int32_t>{3});
  EXPECT_TRUE(s.ignore_eos && !s.skip_special_tokens && s.no_stop_trim);
}

TEST(Chat, ReadsWhenAndBesideWhomItRuns) {
  const ServedModel model = fake_model();
  const auto read = [&](const std::string& members) {
    return job_of(parse_chat(R"({"messages": [{"role": "user", "content": "x"}], "n": 2)" + members + "}", model))
        .requests.at(1);
  };
  const GenerateRequest request = read(R"(, "priority": 3, "timeout": 2.5, "cache_salt": "a", "extra_key": "b")");
  EXPECT_EQ(request.priority, 3);
  EXPECT_EQ(request.deadline_s, 2.5);
  EXPECT_NE(request.cache_salt, "");
  EXPECT_EQ(request.cache_salt, read(R"(, "cache_salt": "a", "extra_key": "b")").cache_salt);
  EXPECT_NE(request.cache_salt, read(R"(, "cache_salt": "ab")").cache_salt);
  EXPECT_NE(request.cache_salt, read(R"(, "extra_key": "ab")").cache_salt);
  EXPECT_EQ(read("").cache_salt, "");
  EXPECT_EQ(read("").deadline_s, 0);
}

TEST(Chat, NormalisesMessagesBeforeRendering) {
  const Job job = job_of(parse_chat(R"({"messages": [
      {"role": "developer", "content": "be brief"},
      {"role": "User", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {}}]},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
        "function": {"name": "f", "arguments": "{\"n\": 123456789012345678901234567890}"}}]},
      {"role": "tool", "content": "r", "tool_call_id": "1"}], "parallel_tool_calls": true, "store": false})",
                                    fake_model()));
  EXPECT_TRUE(prompt_of(job).starts_with("system:be brief;user:a b;assistant:;[{")) << prompt_of(job);
  EXPECT_NE(prompt_of(job).find("tool:r;assistant:"), std::string::npos);
}

TEST(Chat, KeepsTheBillingLineOutOfThePrompt) {
  const auto prompt = [](const std::string& system) {
    return prompt_of(job_of(parse_chat(R"({"messages": [{"role": "system", "content": )" + system +
                                           R"(}, {"role": "user", "content": "x-anthropic-billing-header: a"}]})",
                                       fake_model())));
  };
  const std::string plain = prompt(R"("Be brief.")");
  EXPECT_NE(plain.find("user:x-anthropic-billing-header: a"), plain.npos) << "only the system's is not the user's";
  EXPECT_EQ(prompt(R"("x-anthropic-billing-header: cch=1;\nBe brief.")"), plain);
  EXPECT_EQ(prompt(R"([{"type": "text", "text": "x-anthropic-billing-header: cch=2;"},
                       {"type": "text", "text": "Be brief."}])"),
            plain);
}

TEST(Chat, ToolsAreRenderedUnlessForbidden) {
  const std::string tools = R"(, "tools": [{"type": "function", "function": {"name": "f"}}])";
  const Job with_tools = chat(tools);
  EXPECT_TRUE(prompt_of(with_tools).starts_with(R"([{"type":"function","function":{"name":"f"}}]user:hi;)"));
  EXPECT_FALSE(with_tools.requests[0].sampling.skip_special_tokens);
  EXPECT_EQ(prompt_of(chat(tools + R"(, "tool_choice": "none")")), "user:hi;assistant:");
}

TEST(Chat, PassesTemplateOptionsOn) {
  const FakeTemplate chat_template;
  ServedModel model = fake_model();
  model.chat_template = &chat_template;
  chat(
      R"(, "reasoning_effort": "minimal", "chat_template_kwargs": {"enable_thinking": false, "big": 123456789012345678901})",
      model);
  EXPECT_EQ(
      chat_template.last_kwargs_,
      R"({"add_generation_prompt":true,"reasoning_effort":"low","enable_thinking":false,"big":123456789012345678901})");
  chat(R"(, "reasoning": {"enabled": true, "effort": "xhigh"})", model);
  EXPECT_EQ(chat_template.last_kwargs_,
            R"({"add_generation_prompt":true,"reasoning_effort":"high","enable_thinking":true,"thinking":true})");
}

TEST(Chat, ContinuesTheFinalMessageOnRequest) {
  const std::string messages =
      R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well,"}])";
  EXPECT_EQ(prompt_of(job_of(parse_chat(messages + R"(, "continue_final_message": true})", fake_model()))),
            "user:hi;assistant:Well,");
  EXPECT_EQ(prompt_of(job_of(parse_chat(messages + "}", fake_model()))), "user:hi;assistant:Well,;assistant:");
}

TEST(Chat, RefusesWhatTheTemplateRefuses) {
  const auto parsed = parse_chat(R"({"messages": [{"role": "user", "content": "REFUSE"}]})", fake_model());
  ASSERT_TRUE(std::holds_alternative<ApiError>(parsed));
  EXPECT_NE(std::get<ApiError>(parsed).message.find("no such words"), std::string::npos);
  ServedModel model = fake_model();
  model.chat_template = nullptr;
  EXPECT_TRUE(
      std::holds_alternative<ApiError>(parse_chat(R"({"messages": [{"role": "user", "content": "x"}]})", model)));
}

Job completions(const std::string& members) { return job_of(parse_completions("{" + members + "}", fake_model())); }

TEST(Completions, EveryFormOfPromptIsTaken) {
  EXPECT_EQ(prompt_of(completions(R"("prompt": "ab")")), "ab");
  EXPECT_EQ(prompt_of(completions(R"("prompt": [97, 98])")), "ab");
  EXPECT_EQ(prompt_of(completions(R"("prompt": ["ab", "cd"], "n": 2)"), 2), "cd");
  EXPECT_EQ(prompt_of(completions(R"("prompt": [[97], [98]])"), 1), "b");
  const SamplingParams sampling = completions(R"("prompt": "ab", "max_tokens": null)").requests[0].sampling;
  EXPECT_EQ(sampling.max_new_tokens, 16);
}

TEST(Completions, EchoShowsThePromptWithItsLogprobs) {
  Job job = completions(R"("prompt": "hi", "echo": true, "logprobs": 2)");
  EXPECT_EQ(job.requests[0].logprob_start, 0);
  Emission emission = token(0xe2, "", 1);
  emission.prompt = {{'h', 0.0f, {}}, {'i', -2.0f, {{'i', -2.0f}}}};
  job.answer->take(0, std::move(emission));
  job.answer->take(0, last(token('!', "\uFFFD!", 2), {Finish::Kind::length, {}, ""}));

  const Json choice = Json::parse(job.answer->finish())["choices"][0];
  EXPECT_EQ(choice["text"], "hi\uFFFD!");
  EXPECT_EQ(
      choice["logprobs"].dump(),
      R"({"tokens":["h","i","bytes:\\xe2","!"],"token_logprobs":[null,-2.0,-0.5,-0.5],)"
      R"("top_logprobs":[null,{"i":-2.0},{"bytes:\\xe2":-0.5,"z":-1.5},{"!":-0.5,"z":-1.5}],"text_offset":[0,1,2,3]})");
}

TEST(Completions, TheFinishIsOnTheLastTextChunk) {
  Job job = completions(R"("prompt": "hi", "echo": true, "stream": true, "stream_options": {"include_usage": true})");
  std::string stream = job.answer->start();
  stream += job.answer->take(0, token('a', "a", 1));
  stream += job.answer->take(0, last(token('b', "b", 2), kStopped));
  stream += job.answer->finish();

  const std::vector<Json> events = events_of(stream);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0]["choices"].dump(),
            R"([{"index":0,"text":"hia","logprobs":null,"finish_reason":null,"matched_stop":null}])");
  EXPECT_EQ(events[1]["choices"].dump(),
            R"([{"index":0,"text":"b","logprobs":null,"finish_reason":"stop","matched_stop":256}])");
  EXPECT_EQ(events[2]["usage"]["total_tokens"], 4);
  EXPECT_EQ(events[3], "DONE");
}

TEST(Completions, StreamsTellHowFarEachPromptIsAndEchoItLater) {
  Job job = completions(R"("prompt": ["hi", "ho"], "echo": true, "stream": true, "return_progress": true)");
  EXPECT_TRUE(job.requests[1].report_progress);

  std::vector<Json> events = events_of(job.answer->take(1, kReading) + job.answer->take(1, token('a', "a", 1)));

  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0]["prompt_progress"].dump(), kRead);
  EXPECT_EQ(events[0]["choices"][0]["index"], 1);
  EXPECT_EQ(events[0]["choices"][0]["text"], "");
  EXPECT_EQ(events[1]["choices"][0]["text"], "hoa");
}

TEST(Completions, PromptsCountOnceInTheUsage) {
  Job job = completions(R"("prompt": ["ab", "c"], "n": 2)");
  ASSERT_EQ(job.requests.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    Emission emission = last(token('a', "a", 1), kStopped);
    emission.cached_tokens = 1;
    job.answer->take(i, std::move(emission));
  }
  const Json usage = Json::parse(job.answer->finish())["usage"];
  EXPECT_EQ(usage["prompt_tokens"], 3);
  EXPECT_EQ(usage["completion_tokens"], 4);
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 2);
}

TEST(Completions, WithoutNewTokensEchoSaysHowProbableThePromptIs) {
  Job job = completions(R"("prompt": "ab", "echo": true, "logprobs": 1, "max_tokens": 0)");
  EXPECT_EQ(job.requests[0].sampling.max_new_tokens, 0);
  Emission emission;
  emission.prompt = {{'b', -2.0f, {{'b', -2.0f}}}};
  job.answer->take(0, last(std::move(emission), {Finish::Kind::length, {}, ""}));

  const Json body = Json::parse(job.answer->finish());
  EXPECT_EQ(body["choices"][0]["text"], "ab");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(
      body["choices"][0]["logprobs"].dump(),
      R"({"tokens":["a","b"],"token_logprobs":[null,-2.0],"top_logprobs":[null,{"b":-2.0}],"text_offset":[0,1]})");
  EXPECT_EQ(body["usage"]["completion_tokens"], 0);
}

TEST(Completions, MinusOneTokenIsAsManyAsFit) {
  EXPECT_EQ(completions(R"("prompt": "a", "max_tokens": -1)").requests[0].sampling.max_new_tokens, -1);
  EXPECT_EQ(chat(R"(, "max_tokens": -1)").requests[0].sampling.max_new_tokens, -1);
  EXPECT_EQ(chat(R"(, "max_completion_tokens": -1)").requests[0].sampling.max_new_tokens, -1);
}

TEST(Completions, TruncatesAPromptOnTheSideThatIsAskedFor) {
  const auto prompt = [](const std::string& members) {
    Job job = completions(R"("prompt": "abcdef", "echo": true, )" + members);
    const std::string ids = prompt_of(job);
    job.answer->take(0, last({}, {Finish::Kind::length, {}, ""}));
    EXPECT_EQ(Json::parse(job.answer->finish())["choices"][0]["text"], ids) << "echo shows what the model saw";
    return ids;
  };
  EXPECT_EQ(prompt(R"("truncate_prompt_tokens": 4)"), "cdef");
  EXPECT_EQ(prompt(R"("truncate_prompt_tokens": 4, "truncation_side": "right")"), "abcd");
  EXPECT_EQ(prompt(R"("truncate_prompt_tokens": 99)"), "abcdef");
  ServedModel small = fake_model();
  small.max_context = 10;
  const Job job = job_of(
      parse_completions(R"({"prompt": "abcdefghijklmnop", "max_tokens": 4, "truncate_prompt_tokens": -1})", small));
  EXPECT_EQ(prompt_of(job), "klmnop") << "what leaves room for the answer";
}

TEST(Completions, KeepsTheStopInTheTextWhenVllmsMemberAsksForIt) {
  EXPECT_TRUE(completions(R"("prompt": "a", "stop": "b", "include_stop_str_in_output": true)")
                  .requests[0]
                  .sampling.no_stop_trim);
  EXPECT_FALSE(completions(R"("prompt": "a", "include_stop_str_in_output": false)").requests[0].sampling.no_stop_trim);
}

TEST(Completions, TakeUpTo128Samples) {
  EXPECT_EQ(completions(R"("prompt": "a", "n": 128, "best_of": 128)").requests.size(), 128u);
}

Job native(const std::string& members) { return job_of(parse_generate("{" + members + "}", fake_model())); }

TEST(Generate, AnswersWithMetaInfoAndLogprobTriples) {
  Job job = native(R"("text": "hi", "rid": "r1", "return_logprob": true, "top_logprobs_num": 1, "logprob_start_len": 0,
      "return_text_in_logprobs": true, "sampling_params": {"max_new_tokens": 2, "temperature": 0})");
  EXPECT_EQ(job.requests[0].rid, "r1");
  Emission emission = token('a', "a", 1);
  emission.prompt = {{'h', 0.0f, {}}, {'i', -2.0f, {{'i', -2.0f}}}};
  job.answer->take(0, std::move(emission));
  job.answer->take(0, last(token('b', "b", 2), {Finish::Kind::length, {}, ""}));

  const Json body = Json::parse(job.answer->finish());
  EXPECT_EQ(body["text"], "ab");
  EXPECT_EQ(body["output_ids"].dump(), "[97,98]");
  const Json meta = body["meta_info"];
  EXPECT_EQ(meta["id"], "r1");
  EXPECT_EQ(meta["finish_reason"].dump(), R"({"type":"length","length":2})");
  EXPECT_EQ(meta["prompt_tokens"], 2);
  EXPECT_EQ(meta["completion_tokens"], 2);
  EXPECT_EQ(meta["cached_tokens"], 0);
  EXPECT_EQ(meta["weight_version"], "default");
  EXPECT_GE(meta["e2e_latency"].get<double>(), 0.0);
  EXPECT_EQ(meta["input_token_logprobs"].dump(), R"([[null,104,"h"],[-2.0,105,"i"]])");
  EXPECT_EQ(meta["input_top_logprobs"].dump(), R"([null,[[-2.0,105,"i"]]])");
  EXPECT_EQ(meta["output_token_logprobs"].dump(), R"([[-0.5,97,"a"],[-0.5,98,"b"]])");
  EXPECT_EQ(meta["output_top_logprobs"][0].dump(), R"([[-0.5,97,"a"],[-1.5,122,"z"]])");
}

TEST(Generate, WithoutNewTokensSaysHowProbableThePromptIs) {
  Job job = native(R"("text": "hi", "return_logprob": true, "logprob_start_len": 0,
      "sampling_params": {"max_new_tokens": 0})");
  Emission emission;
  emission.prompt = {{'i', -2.0f, {}}};
  job.answer->take(0, last(std::move(emission), {Finish::Kind::length, {}, ""}));
  const Json body = Json::parse(job.answer->finish());
  EXPECT_EQ(body["text"], "");
  EXPECT_EQ(body["meta_info"]["input_token_logprobs"].dump(), "[[null,104,null],[-2.0,105,null]]");
  EXPECT_EQ(body["meta_info"]["finish_reason"].dump(), R"({"type":"length","length":0})");
}

TEST(Generate, LogprobsKeepEveryBit) {
  Job job = native(R"("text": "hi", "return_logprob": true)");
  std::vector<float> values = {-0.1f, -1.1754944e-38f, -3.4028e38f, -12.345678f, -1e-7f, -INFINITY};
  for (size_t i = 0; i < values.size(); ++i) {
    Emission emission;
    emission.tokens.push_back({'a', values[i], {}});
    emission.completion_tokens = static_cast<int>(i) + 1;
    job.answer->take(0, std::move(emission));
  }
  const Json triples = Json::parse(job.answer->finish())["meta_info"]["output_token_logprobs"];
  for (const size_t i : {0, 1, 3, 4}) EXPECT_EQ(static_cast<float>(triples[i][0].get<double>()), values[i]);
  EXPECT_EQ(triples[5][0], -9999.0);
  EXPECT_TRUE(triples[0][2].is_null());
}

TEST(Generate, AListIsAnsweredWithAList) {
  Job job = native(
      R"("input_ids": [[104], [105]], "rid": ["x", "y"], "sampling_params": [{"seed": 1}, {"max_new_tokens": null}])");
  ASSERT_EQ(job.requests.size(), 2u);
  EXPECT_EQ(job.requests[0].sampling.max_new_tokens, 128);
  EXPECT_EQ(job.requests[1].sampling.max_new_tokens, -1);
  job.answer->take(1, last(token('b', "b", 1), {Finish::Kind::abort, {}, "asked"}));
  job.answer->take(0, last(token('a', "a", 1), kStopped));

  const Json body = Json::parse(job.answer->finish());
  ASSERT_TRUE(body.is_array());
  EXPECT_EQ(body[0]["meta_info"]["id"], "x");
  EXPECT_EQ(body[0]["meta_info"]["finish_reason"].dump(), R"({"type":"stop","matched":256})");
  EXPECT_EQ(body[1]["meta_info"]["finish_reason"].dump(), R"({"type":"abort","message":"asked"})");
}

TEST(Generate, StreamsTheWholeTextSoFar) {
  Job job = native(R"("text": "hi", "stream": true)");
  std::string stream = job.answer->start();
  stream += job.answer->take(0, token('a', "a", 1));
  stream += job.answer->take(0, last(token('b', "b", 2), kStopped));
  stream += job.answer->finish();

  const std::vector<Json> events = events_of(stream);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0]["text"], "a");
  EXPECT_TRUE(events[0]["meta_info"]["finish_reason"].is_null());
  EXPECT_EQ(events[1]["text"], "ab");
  EXPECT_EQ(events[1]["output_ids"].dump(), "[97,98]");
  EXPECT_EQ(events[2], "DONE");
}

TEST(Generate, IncrementalStreamsBringWhatIsNew) {
  Job job = job_of(parse_generate(R"({"text": "hi", "stream": true, "return_logprob": true, "logprob_start_len": 0})",
                                  fake_model(), /*incremental=*/true));
  Emission first = token('a', "a\"", 1);
  first.prompt = {{'i', -2.0f, {}}};
  std::string stream = job.answer->take(0, std::move(first));
  stream += job.answer->take(0, last(token('b', "b", 2), kStopped));

  const std::vector<Json> events = events_of(stream);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0]["text"], "a\"");
  EXPECT_EQ(events[0]["meta_info"]["input_token_logprobs"].size(), 2u);
  EXPECT_EQ(events[1]["text"], "b");
  EXPECT_EQ(events[1]["output_ids"].dump(), "[98]");
  EXPECT_EQ(events[1]["meta_info"]["completion_tokens"], 2);
  EXPECT_EQ(events[1]["meta_info"]["output_token_logprobs"].size(), 1u);
  EXPECT_TRUE(events[1]["meta_info"]["input_token_logprobs"].empty());
  EXPECT_FALSE(job.answer->is_cumulative());
}

// Written anew for each token, an answer four times as long would take sixteen times as long.
TEST(Generate, WritingALongStreamTakesHardlyMoreThanItsBytes) {
  const auto measure = [](int tokens) {
    Job job = native(R"("text": "hi", "stream": true)");
    const std::clock_t begin = std::clock();
    size_t bytes = 0;
    for (int i = 1; i <= tokens; ++i) bytes += job.answer->take(0, token('a' + i % 26, "word\n", i)).size();
    return std::pair(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, static_cast<double>(bytes));
  };
  measure(1000);
  const auto [seconds, bytes] = measure(4000);
  RecordProperty("seconds", fmt::format("{:.3f}", seconds));
  RecordProperty("bytes", fmt::format("{:.0f}", bytes));
  std::printf("4000 tokens: %.0f MB, %.3f s\n", bytes / 1e6, seconds);
  EXPECT_LT(seconds, bytes / 50e6);  // 50 MB/s: a tenth of what copying them takes, even under a sanitizer
}

TEST(TextEndpoints, TokenizeTakesPromptContentOrMessages) {
  const ServedModel model = fake_model();
  const auto answer = [&](const std::string& body) {
    return Json::parse(std::get<std::string>(tokenize(body, model)));
  };
  EXPECT_EQ(answer(R"({"prompt": "ab"})").dump(), R"({"tokens":[97,98],"count":2,"max_model_len":512})");
  EXPECT_EQ(answer(R"({"content": "a", "return_token_strs": true})")["token_strs"].dump(), R"(["a"])");
  EXPECT_EQ(answer(R"({"prompt": ["a", "bc"]})")["count"].dump(), "[1,2]");
  EXPECT_EQ(answer(R"({"messages": [{"role": "user", "content": "x"}]})")["count"], 17);
  EXPECT_TRUE(std::holds_alternative<ApiError>(tokenize("{}", model)));
}

TEST(TextEndpoints, DetokenizeGivesTheTextUnderEveryName) {
  const ServedModel model = fake_model();
  const auto answer = [&](const std::string& body) { return std::get<std::string>(detokenize(body, model)); };
  EXPECT_EQ(answer(R"({"tokens": [97, 256]})"), R"({"text":"a","prompt":"a","content":"a"})");
  EXPECT_EQ(Json::parse(answer(R"({"tokens": [[97], [98, 256]], "skip_special_tokens": false})"))["text"].dump(),
            R"(["a","b<eos>"])");
  EXPECT_TRUE(std::holds_alternative<ApiError>(detokenize(R"({"tokens": [260]})", model)));
}

TEST(TextEndpoints, ApplyTemplateShowsThePrompt) {
  EXPECT_EQ(std::get<std::string>(apply_template(
                R"({"messages": [{"role": "user", "content": "x"}], "kwargs": {"add_generation_prompt": false}})",
                fake_model())),
            R"({"prompt":"user:x;"})");
}

TEST(Errors, HaveOneShape) {
  EXPECT_EQ(to_json(ApiError{400, "too hot", "temperature", ""}),
            R"({"error":{"message":"too hot","type":"invalid_request_error","param":"temperature","code":null},)"
            R"("object":"error","message":"too hot","type":"invalid_request_error","code":null})");
}

}  // namespace
}  // namespace kt
