// What the server answers to whom, and to mistakes.
#include "runtime/serve/http/http.h"

#include <gtest/gtest.h>
#include <functional>

#include "runtime/base/error.h"
#include "tests/temp_folder.h"

#include "tests/serve/running_server.h"

namespace kt {
namespace {

TEST(Http, ARefusalAtTheHeadStaysWhenTheModelGetsReadyBeforeTheBody) {
  HttpServer server(on_any_port());
  Client refused(server.port()), taken(server.port());
  refused.send(
      "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n");
  const std::string refusal = refused.read_response();
  taken.send("GET /health HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(taken.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");

  FakeEngine engine;
  server.serve(engine, fake_model());
  refused.send(R"({"text": "a"})");
  taken.send("{}");

  EXPECT_EQ(status_of(refusal), 503);
  EXPECT_EQ(body_of(refusal)["error"]["code"], "loading");
  EXPECT_EQ(refused.read_until(""), "") << "nothing was computed";
  EXPECT_TRUE(refused.closed());
  EXPECT_EQ(body_of(taken.read_response())["status"], "ok") << "what may be asked while loading sees what is there now";
  engine.finish();
  server.stop();
}

TEST(Http, AnswersAChat) {
  const Running running;
  const std::string response = running.ask(post("/v1/chat/completions", kChat));
  EXPECT_EQ(status_of(response), 200);
  EXPECT_EQ(body_of(response)["choices"][0]["message"]["content"], "user:hi;assistant:");
}

TEST(Http, StreamsAChatAndKeepsTheConnection) {
  const Running running;
  Client client = running.connect();
  client.send(post("/v1/chat/completions", kChatStream));
  const std::string head = client.read_until("\r\n\r\n");
  const std::string events = client.read_until("\r\n0\r\n\r\n");
  EXPECT_EQ(status_of(head), 200);
  EXPECT_NE(head.find("Content-Type: text/event-stream"), head.npos);
  EXPECT_NE(events.find("\"delta\":{\"role\":\"assistant\",\"content\":\"\"}"), events.npos);
  EXPECT_NE(events.find("data: [DONE]\n\n"), events.npos);

  client.send(get("/health"));
  EXPECT_EQ(status_of(client.read_response()), 200);
}

TEST(Http, RoutesAnswerEveryMistakeInOneShape) {
  const Running running;
  struct Mistake {
    std::string request;
    int status;
    std::string in_head;
  };
  const std::vector<Mistake> mistakes = {
      {get("/nowhere"), 404, ""},
      {get("/v1/models/other"), 404, ""},
      {get("/v1/chat/completions"), 405, "Allow: POST\r\n"},
      {"DELETE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "Allow: GET, HEAD\r\n"},
      {"BREW /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, ""},
      {post("/v1/chat/completions", "{}", "Content-Type: text/plain\r\n"), 400, ""},
      {post("/v1/chat/completions", "{}", ""), 400, ""},
      {post("/v1/chat/completions", "{"), 400, ""},
      {post("/v1/chat/completions", R"({"messages": [], "stream": true})"), 400, ""},
      {post("/v1/completions", R"({"prompt": ")" + std::string(600, 'x') + R"(", "stream": true})"), 400, ""},
      {get("/health", "Origin: http://evil.example\r\n"), 403, ""},
      {"GET /health HTTP/1.1\r\nHost: evil.example:1\r\nOrigin: http://evil.example:1\r\n\r\n", 403, ""},
      {"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, ""},
      {post("/generate", R"({"text": "a"})", "Content-Type: application/json\r\nX-Request-Timeout: soon\r\n"), 400, ""},
      {"nonsense\r\n\r\n", 400, "Connection: close\r\n"},
      {post("/v1/chat/completions", "", "Content-Length: 5\r\n"), 400, "Connection: close\r\n"},
      {get("/health", "X: " + std::string(20000, 'x') + "\r\n"), 431, "Connection: close\r\n"},
      {post("/generate", std::string((4 << 20) + 1, ' ')), 413, "Connection: close\r\n"},
  };
  for (const Mistake& mistake : mistakes) {
    const std::string response = running.ask(mistake.request);
    SCOPED_TRACE(mistake.request.substr(0, 120) + "\n" + response);
    ASSERT_EQ(status_of(response), mistake.status);
    EXPECT_NE(response.find(mistake.in_head), response.npos);
    const Json body = body_of(response);
    EXPECT_EQ(body["object"], "error");
    EXPECT_EQ(body["message"], body["error"]["message"]);
    EXPECT_EQ(body["type"], body["error"]["type"]);
    EXPECT_TRUE(body["error"].contains("param") && body["error"].contains("code"));
  }
  EXPECT_EQ(status_of(running.ask(get("/health", "Origin: http://localhost\r\n"))), 200);
}

TEST(Http, ADeadlineFromBodyHeaderOrConfigEndsTheRequestWith504) {
  const Running running(on_any_port(), {.hold = true});
  const std::string json = "Content-Type: application/json\r\n";
  const std::string late = running.ask(post("/generate", R"({"text": "a", "timeout": 0.05})"));
  EXPECT_EQ(status_of(late), 504);
  EXPECT_EQ(body_of(late)["error"]["type"], "timeout_error");
  EXPECT_EQ(status_of(running.ask(post("/generate", R"({"text": "a"})", json + "X-Request-Timeout: 0.05\r\n"))), 504);
  EXPECT_EQ(status_of(running.ask(
                post("/generate", R"({"text": "a", "timeout": 1e9})", json + "X-Request-Timeout: 0.05\r\n"))),
            504)
      << "the first one counts";
  const std::string message = running.ask(
      post("/v1/messages", R"({"max_tokens": 9, "messages": [{"role": "user", "content": "a"}], "timeout": 0.05})"));
  EXPECT_EQ(status_of(message), 504);
  EXPECT_EQ(body_of(message)["error"]["type"], "timeout_error");

  Client stream = running.connect();
  stream.send(post("/v1/completions", R"({"prompt": "a", "stream": true, "timeout": 0.05})"));
  EXPECT_NE(stream.read_until("[DONE]").find("\"timeout_error\""), std::string::npos);

  HttpConfig strict = on_any_port();
  strict.max_answer_s = 0.05;
  const Running limited(strict, {.hold = true});
  EXPECT_EQ(status_of(limited.ask(post("/generate", R"({"text": "a", "timeout": 60})"))), 504);
}

TEST(Http, AFullQueueIsSaidBeforeTheStream) {
  const Running running(on_any_port(), {.max_requests = 2, .hold = true});
  Client first = running.connect();
  first.send(post("/v1/chat/completions", kChatStream));
  first.read_until("\r\n\r\n");
  const std::string refused = running.ask(
      post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "x"}], "n": 2, "stream": true})"));
  EXPECT_EQ(status_of(refused), 429);
  EXPECT_NE(refused.find("Retry-After: "), refused.npos);
  EXPECT_TRUE(wait_for([&] { return running.engine.stats().running == 1; })) << "the choice that was taken stays";
}

TEST(Http, AbortRequestEndsOneByItsExactId) {
  const Running running(on_any_port(), {.hold = true});
  Client one = running.connect(), ten = running.connect();
  one.send(post("/generate", R"({"text": "a", "rid": "1"})"));
  ten.send(post("/generate", R"({"text": "a", "rid": "10"})"));
  ASSERT_TRUE(wait_for([&] { return running.engine.stats().running == 2; }));
  EXPECT_EQ(status_of(running.ask(post("/generate", R"({"text": "a", "rid": "1"})"))), 400) << "the id is taken";
  EXPECT_EQ(status_of(running.ask(get("/flush_cache"))), 400);

  EXPECT_EQ(status_of(running.ask(post("/abort_request", R"({"rid": "1"})"))), 200);
  EXPECT_EQ(body_of(one.read_response())["meta_info"]["finish_reason"]["type"], "abort");
  EXPECT_EQ(running.engine.stats().running, 1);
  EXPECT_EQ(status_of(running.ask(post("/abort_request", R"({"abort_all": true})"))), 200);
  EXPECT_EQ(status_of(ten.read_response()), 200);
}

TEST(Http, AnEndByTheServerIsAnErrorToItsClients) {
  Running running(on_any_port(), {.hold = true});
  Client plain = running.connect(), stream = running.connect();
  plain.send(post("/v1/chat/completions", kChat));
  stream.send(post("/v1/chat/completions", kChatStream));
  ASSERT_TRUE(wait_for([&] { return running.engine.stats().running == 2; }));

  FakeEngine& engine = running.engine;
  engine.abort(1);
  engine.abort(2);

  EXPECT_EQ(status_of(plain.read_response()), 503);
  const std::string events = stream.read_until("[DONE]\n\n");
  EXPECT_NE(events.find("data: {\"error\":{"), events.npos);
  EXPECT_EQ(events.find("finish_reason\":\"stop"), events.npos);
}

const std::string kMessageStream =
    R"({"max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "a"}]})";

TEST(Http, BeforeTheFirstTokenOnlyAnthropicsStreamsSayAnything) {
  HttpConfig config = on_any_port();
  config.ping_interval_s = 0.05;
  const Running running(config, {.hold = true});
  Client message = running.connect();
  message.send(post("/v1/messages", kMessageStream));
  EXPECT_TRUE(message.read_until("{\"type\": \"ping\"}\n\n", 2).ends_with("ping\"}\n\n"));
  EXPECT_TRUE(message.read_until("{\"type\": \"ping\"}\n\n", 2).ends_with("ping\"}\n\n"));
  for (const auto& [path, body] : {std::pair("/v1/chat/completions", kChatStream),
                                   std::pair("/v1/completions", std::string(R"({"prompt": "a", "stream": true})")),
                                   std::pair("/generate", std::string(R"({"text": "a", "stream": true})"))}) {
    Client client = running.connect();
    client.send(post(path, body));
    EXPECT_EQ(status_of(client.read_until("\r\n\r\n", 2)), 200) << "it is told that it was admitted";
    EXPECT_EQ(client.read_until("\n", 0.3), "") << path;
  }
}

TEST(Http, ASilentStreamIsKeptAliveByCommentsWhereTheyAreAskedFor) {
  HttpConfig config = on_any_port();
  config.comment_interval_s = 0.05;
  const Running running(config, {.hold = true});
  Client client = running.connect();
  client.send(post("/v1/chat/completions", kChatStream));
  EXPECT_TRUE(client.read_until(": ping\n\n", 2).ends_with(": ping\n\n"));
  EXPECT_TRUE(client.read_until(": ping\n\n", 2).ends_with(": ping\n\n"));
}

TEST(Http, AStreamIntervalPutsManyTokensIntoOneEvent) {
  const Running running;
  const auto texts = [&](const char* path, const std::string& body, const char* name) {
    Client client = running.connect();
    client.send(post(path, body));
    const std::string events = client.read_until("[DONE]");
    std::vector<std::string> found;
    const std::string start = std::string("\"") + name + "\":\"";
    for (size_t at = 0; (at = events.find(start, at)) != events.npos; ++at) {
      const size_t begin = at + start.size();
      found.push_back(events.substr(begin, events.find('"', begin) - begin));
    }
    return found;
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(texts("/v1/completions", R"({"prompt": "abcdefgh", "stream": true, "stream_interval": 3})", "text"),
            (Texts{"a", "bcd", "efg", "h"}));

  // Whole texts that come while one is written are left out, so there may be fewer.
  const Texts whole =
      texts("/generate", R"({"text": "abcdefgh", "stream": true, "sampling_params": {"stream_interval": 4}})", "text");
  ASSERT_FALSE(whole.empty());
  EXPECT_EQ(whole.back(), "abcdefgh");
  for (size_t i = 1; i + 1 < whole.size(); ++i) EXPECT_GE(whole[i].size(), whole[i - 1].size() + 4) << whole[i];
}

TEST(Http, EveryAnswerHasARequestIdTheClientsOwnIfItSentOne) {
  HttpConfig config = on_any_port();
  config.log_requests = true;
  testing::internal::CaptureStderr();
  {
    const Running running(config);
    const auto id_of = [](const std::string& response) {
      const size_t at = response.find("X-Request-Id: ");
      return at == response.npos ? "" : response.substr(at + 14, response.find("\r\n", at) - at - 14);
    };
    const std::string json = "Content-Type: application/json\r\n";
    EXPECT_EQ(id_of(running.ask(get("/health", "X-Request-ID: my-1\r\n"))), "my-1");
    EXPECT_EQ(id_of(running.ask(get("/nowhere", "X-Request-ID: my-2\r\n"))), "my-2");
    EXPECT_EQ(id_of(running.ask("nonsense\r\n\r\n")).size(), 32u);
    EXPECT_EQ(id_of(running.ask(get("/health", "X-Request-Id: two words\r\n"))).size(), 32u);
    EXPECT_EQ(id_of(running.ask(get("/health", "X-Request-Id: " + std::string(300, 'x') + "\r\n"))).size(), 32u);
    EXPECT_NE(id_of(running.ask(get("/health"))), id_of(running.ask(get("/health"))));
    EXPECT_EQ(id_of(running.ask(post("/generate", R"({"text": "a"})", json + "x-request-id: my-3\r\n"))), "my-3");
    const std::string named = running.ask(post("/v1/chat/completions", kChat));
    EXPECT_EQ(id_of(named), body_of(named)["id"]) << "one name for both";
    Client stream = running.connect();
    stream.send(post("/v1/chat/completions", kChatStream));
    EXPECT_EQ(id_of(stream.read_until("\r\n\r\n")).size(), 32u);
    stream.read_until("[DONE]");
  }
  EXPECT_NE(testing::internal::GetCapturedStderr().find(", X-Request-Id my-3\n"), std::string::npos);
}

TEST(Http, APathOfAnotherServerIsAnsweredWithTheRightOne) {
  const Running running;
  for (const auto& [path, right] :
       std::vector<std::pair<std::string, std::string>>{{"/chat/completions", "/v1/chat/completions"},
                                                        {"/completions", "/v1/completions"},
                                                        {"/completion", "/v1/completions"},
                                                        {"/messages", "/v1/messages"},
                                                        {"/models", "/v1/models"},
                                                        {"/v1/v1/chat/completions", "/v1/chat/completions"},
                                                        {"/openai/v1/models", "/v1/models"},
                                                        {"/v1/models/", "/v1/models"},
                                                        {"/v1/generate", "/generate"},
                                                        {"/v1/health", "/health"},
                                                        {"/metrics/", "/metrics"},
                                                        {"/api/chat", "/v1/chat/completions"},
                                                        {"/v1/loads", "/get_load"}}) {
    const std::string response = running.ask(get(path));
    EXPECT_EQ(status_of(response), 404) << path;
    EXPECT_NE(body_of(response)["error"]["message"].get<std::string>().find(" " + right + " "), std::string::npos)
        << path << "\n"
        << response;
  }
  EXPECT_EQ(body_of(running.ask(get("/nowhere")))["error"]["message"], "there is no /nowhere");
}

}  // namespace
}  // namespace kt
