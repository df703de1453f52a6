// What the log says of requests and refusals.

#include "runtime/serve/http/request_log.h"

#include <gmock/gmock.h>

#include "runtime/base/log.h"
#include "tests/serve/running_server.h"

namespace kt {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

constexpr std::string_view kTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const std::string kJsonType = "Content-Type: application/json\r\n";

// What a server logs while it is asked.
std::string log_of(const std::function<void(const Running&)>& ask, LogLevel most = LogLevel::info, bool json = false,
                   HttpConfig config = on_any_port()) {
  config.log_requests = true;
  set_log_style(most, json);
  testing::internal::CaptureStderr();
  {
    const Running running(config);
    ask(running);
  }
  set_log_style(LogLevel::info, false);
  return testing::internal::GetCapturedStderr();
}

std::string traced(std::string_view trace) { return fmt::format("{}traceparent: {}\r\n", kJsonType, trace); }

TEST(RequestLog, ALineOfARequestTellsSizesTimesClientAndTrace) {
  const std::string text = log_of([](const Running& running) {
    running.ask(post("/generate", R"({"text": "ab", "rid": "mine"})", traced(kTrace)));
  });

  EXPECT_THAT(text, ContainsRegex("request \"mine\" /generate 200 stop: [0-9]+ prompt, 0 cached, [0-9]+ completion "
                                  "tokens, [0-9.]+ s, [0-9.]+ s in the queue, [0-9.]+ s to the first token, from "
                                  "127.0.0.1, traceparent 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n"));
}

TEST(RequestLog, AJsonLineOfARequestHasThemAsMembers) {
  const std::string text = log_of(
      [](const Running& running) {
        running.ask(post("/generate", R"({"text": "ab", "rid": "mine"})", traced(kTrace) + "X-Request-Id: our-7\r\n"));
      },
      LogLevel::info, true);

  const Json line = Json::parse(text);
  EXPECT_EQ(line["id"], "mine");
  EXPECT_EQ(line["request_id"], "our-7");
  EXPECT_EQ(line["client"], "127.0.0.1");
  EXPECT_EQ(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(line["parent_id"], "00f067aa0ba902b7");
  EXPECT_EQ(line["path"], "/generate");
  EXPECT_EQ(line["status"], 200);
  EXPECT_EQ(line["finish_reason"], "stop");
  EXPECT_GT(line["prompt_tokens"], 0);
  EXPECT_GT(line["completion_tokens"], 0);
  EXPECT_GT(line["duration_s"], 0);
  EXPECT_GT(line["ttft_s"], 0);
  EXPECT_LE(line["ttft_s"], line["duration_s"]);
}

TEST(RequestLog, ARefusalTellsItsReasonAndQuotesNothing) {
  HttpConfig config = on_any_port();
  config.api_keys = {"the-key"};
  const std::string keyed = kJsonType + "X-Api-Key: the-key\r\n";
  const std::string text = log_of(
      [&](const Running& running) {
        running.ask(post("/v1/chat/completions", kChat, kJsonType));
        running.ask(post("/v1/chat/completions", R"({"messages": [], "temperature": "my secret"})", keyed));
        running.ask(get("/a\"b%0Ac", keyed + "X-Request-Id: my-2\r\n"));
        running.ask("nonsense\r\n\r\n");
      },
      LogLevel::info, false, config);

  EXPECT_THAT(text, HasSubstr("] refused POST \"/v1/chat/completions\" 401 invalid_api_key, from 127.0.0.1\n"));
  EXPECT_THAT(text, ContainsRegex("refused POST \"/v1/chat/completions\" 400 [a-z_]+ \"[a-z]+\", from 127.0.0.1\n"));
  EXPECT_THAT(text, HasSubstr("] refused GET \"/a\\\"b\\nc\" 404 not_found, from 127.0.0.1, X-Request-Id my-2\n"));
  EXPECT_THAT(text, HasSubstr("] refused a request 400 invalid_request_error, from 127.0.0.1\n"));
  EXPECT_THAT(text, Not(HasSubstr("secret")));
  EXPECT_THAT(text, Not(HasSubstr("the-key")));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4) << text;
}

TEST(RequestLog, DebugLinesQuoteWhatWasWrongAndTellOfOtherAnswers) {
  const std::string text = log_of(
      [](const Running& running) {
        running.ask(post("/v1/chat/completions", R"({"messages": [], "temperature": "warm"})", kJsonType));
        running.ask(get("/health"));
      },
      LogLevel::debug);

  EXPECT_THAT(text, ContainsRegex(" 400 [a-z_]+ \"[a-z]+\": \".+\", from 127.0.0.1\n"));
  EXPECT_THAT(text, HasSubstr(" D [ktmpi] answered GET \"/health\" 200, from 127.0.0.1\n"));
}

TEST(RequestLog, ARequestThatTheEngineRefusesHasOneLineWithTheReason) {
  const std::string text = log_of([](const Running& running) {
    const std::string body = R"({"text": ")" + std::string(5000, 'x') + R"("})";
    EXPECT_EQ(status_of(running.ask(post("/generate", body, kJsonType))), 400);
  });

  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  EXPECT_THAT(text, HasSubstr("context_length_exceeded"));
}

TEST(RequestLog, OnlyValidTracesAreTakenOver) {
  const std::string bare = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
  EXPECT_TRUE(is_traceparent(kTrace));
  EXPECT_TRUE(is_traceparent("cc-" + bare + "-01-what-will-be"));
  for (const std::string& wrong :
       {std::string(), "00-" + bare, "00-" + bare + "-01-more", "ff-" + bare + "-01", "cc-" + bare + "-01x",
        std::string("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"),
        std::string("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
        std::string("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"),
        std::string("00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")})
    EXPECT_FALSE(is_traceparent(wrong)) << wrong;

  const std::string text = log_of([](const Running& running) {
    running.ask(post("/generate", R"({"text": "ab"})", traced("00-forged\tline")));
    running.ask(post("/generate", R"({"text": "ab"})", traced(kTrace) + fmt::format("traceparent: {}\r\n", kTrace)));
  });
  EXPECT_THAT(text, Not(HasSubstr("traceparent")));
}

}  // namespace
}  // namespace kt
