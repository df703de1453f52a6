// The whole server on a loopback port, with an engine that repeats the prompt.
#include "runtime/serve/http/http.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>

#include "runtime/base/error.h"
#include "runtime/serve/http/listen.h"
#include "runtime/serve/http/origin.h"
#include "runtime/serve/json.h"
#include "tests/serve/client.h"
#include "tests/serve/fakes.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

namespace asio = boost::asio;
using Clock = std::chrono::steady_clock;

const std::string kChat = R"({"messages": [{"role": "user", "content": "hi"}]})";
const std::string kChatStream = R"({"messages": [{"role": "user", "content": "hi"}], "stream": true})";

HttpConfig on_any_port() {
  HttpConfig config;
  config.port = 0;
  config.version = "9.8.7";
  return config;
}

// Server and engine in the order in which the program starts and stops them.
struct Running {
  explicit Running(HttpConfig config = on_any_port(), FakeEngine::Options options = {}, Recorder* recorder = nullptr)
      : server(std::move(config)), engine(options) {
    ServedModel model = fake_model();
    model.recorder = recorder;
    server.serve(engine, std::move(model));
  }
  ~Running() {
    engine.finish();
    server.stop();
  }
  Client connect() const { return Client(server.port()); }
  std::string ask(const std::string& request) const {
    Client client = connect();
    client.send(request);
    return client.read_response();
  }

  HttpServer server;
  FakeEngine engine;
};

bool wait_for(const std::function<bool()>& condition, double seconds = 10) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

Json body_of(const std::string& response) { return Json::parse(response.substr(response.find("\r\n\r\n") + 4)); }

TEST(Http, AnswersLoadingUntilThereIsAnEngine) {
  HttpServer server(on_any_port());
  Client client(server.port());

  client.send(get("/health") + get("/v1/models"));
  const std::string health = client.read_response();
  const std::string models = client.read_response();

  EXPECT_EQ(status_of(health), 503);
  EXPECT_EQ(body_of(health)["status"], "loading");
  EXPECT_EQ(status_of(models), 503);
  EXPECT_NE(models.find("Retry-After: "), models.npos);
  EXPECT_EQ(body_of(models)["error"]["code"], "loading");
}

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

TEST(Http, ATakenPortIsAnErrorAtOnce) {
  HttpServer first(on_any_port());
  HttpConfig config;
  config.port = first.port();
  try {
    HttpServer second(config);
    FAIL() << "listens twice";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), kExitPort);
    EXPECT_NE(std::string(error.what()).find(std::to_string(config.port)), std::string::npos);
  }
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

TEST(Http, AnswersPipelinedRequestsInOrder) {
  const Running running;
  Client client = running.connect();
  client.send(get("/health") + post("/generate", R"({"text": "abc"})") + get("/version") +
              post("/generate", R"({"text": "de"})"));
  EXPECT_EQ(body_of(client.read_response())["status"], "ok");
  EXPECT_EQ(body_of(client.read_response())["text"], "abc");
  EXPECT_EQ(body_of(client.read_response())["version"], "9.8.7");
  EXPECT_EQ(body_of(client.read_response())["text"], "de");
}

TEST(Http, AnswersAllThatWasSentBeforeAHalfClose) {
  const Running running;
  Client client = running.connect();
  client.send(get("/health") + get("/version") + get("/"));
  client.send_no_more();
  const std::string all = client.read_until("");
  EXPECT_NE(all.find("<title>ktmpi</title>"), all.npos);
  EXPECT_TRUE(client.closed());
}

TEST(Http, TakesChunkedBodiesAndSaysContinue) {
  const Running running;
  Client client = running.connect();
  client.send(
      "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json; charset=utf-8\r\nExpect: "
      "100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.send("8\r\n{\"text\":\r\n6\r\n \"abc\"\r\n1\r\n}\r\n0\r\n\r\n");
  EXPECT_EQ(body_of(client.read_response())["text"], "abc");
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

TEST(Http, KeysOpenWhatTheyAreFor) {
  HttpConfig config = on_any_port();
  config.api_keys = {"old-key", "user-key"};
  config.admin_api_key = "admin-key";
  const Running running(config);
  const std::string user = "Authorization: bearer user-key\r\n", admin = "X-Api-Key: admin-key\r\n";
  EXPECT_EQ(status_of(running.ask(get("/health"))), 200);
  EXPECT_EQ(status_of(running.ask(get("/metrics"))), 200);
  EXPECT_EQ(status_of(running.ask("OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")), 204);
  for (const char* path : {"/v1/models", "/version", "/get_server_info", "/get_model_info", "/nowhere"}) {
    EXPECT_EQ(status_of(running.ask(get(path))), 401) << path;
    EXPECT_EQ(status_of(running.ask(get(path, "Authorization: Bearer user-ke\r\n"))), 401) << path;
    EXPECT_EQ(status_of(running.ask(get(path, "Authorization: Bearer user-keyuser-key\r\n"))), 401) << path;
    EXPECT_NE(status_of(running.ask(get(path, user))), 401) << path;
    EXPECT_NE(status_of(running.ask(get(path, admin))), 401) << path;
  }
  EXPECT_EQ(status_of(running.ask(get("/flush_cache", user))), 401);
  EXPECT_EQ(status_of(running.ask(get("/flush_cache", admin))), 200);
}

TEST(Http, InformationEndpointsAnswer) {
  const Running running;
  EXPECT_EQ(body_of(running.ask(get("/v1/models")))["data"][0]["max_model_len"], 512);
  EXPECT_EQ(body_of(running.ask(get("/v1/models/fake%2Fmodel")))["id"], "fake/model");
  EXPECT_EQ(body_of(running.ask(get("/v1/models/fake/model?x=1")))["id"], "fake/model");
  EXPECT_EQ(body_of(running.ask(get("/model_info")))["architectures"][0], "FakeForCausalLM");
  EXPECT_EQ(body_of(running.ask(get("/server_info")))["internal_states"][0]["memory_usage"]["token_capacity"], 1000);
  EXPECT_EQ(body_of(running.ask(get("/health_generate")))["status"], "ok");
  const std::string head = running.ask("HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(status_of(head), 200);
  EXPECT_TRUE(head.ends_with("\r\n\r\n"));
}

TEST(Http, ThePageAsksNobodyButThisServer) {
  const Running running;
  const std::string first = running.ask(get("/")), second = running.ask(get("/"));
  ASSERT_EQ(status_of(first), 200);
  EXPECT_NE(first.find("Content-Type: text/html; charset=utf-8\r\n"), first.npos);
  const size_t at = first.find("Content-Security-Policy: default-src 'self'; img-src 'self' data:; script-src 'nonce-");
  ASSERT_NE(at, first.npos);
  const std::string nonce = first.substr(first.find("'nonce-", at) + 7, 32);
  EXPECT_NE(first.find("<script nonce=\"" + nonce + "\">"), first.npos);
  EXPECT_NE(first.find("<style nonce=\"" + nonce + "\">"), first.npos);
  EXPECT_EQ(second.find(nonce), second.npos) << "a nonce is for one answer";
  const std::string body = first.substr(first.find("\r\n\r\n"));
  EXPECT_LT(body.size(), 60000u);
  for (const char* outside : {"http://", "https://", "//cdn", "NONCE", " onclick=", " style=", "innerHTML"})
    EXPECT_EQ(body.find(outside), body.npos) << outside;
}

TEST(Http, MetricsCountWhatHappened) {
  const Running running;
  running.ask(post("/generate", R"({"text": "abc"})"));
  running.ask(post("/generate", R"({"text": ""})"));
  const std::string text = running.ask(get("/metrics"));
  EXPECT_NE(text.find("ktmpi_requests_total{code=\"200\",finish_reason=\"stop\"} 1\n"), text.npos) << text;
  EXPECT_NE(text.find("ktmpi_requests_total{code=\"400\",finish_reason=\"\"} 1\n"), text.npos);
  EXPECT_NE(text.find("ktmpi_time_to_first_token_seconds_count 1\n"), text.npos);
  EXPECT_NE(text.find("ktmpi_inter_token_latency_seconds_count 3\n"), text.npos);
  EXPECT_NE(text.find("ktmpi_kv_cache_usage_ratio 0.25\n"), text.npos);
  EXPECT_NE(text.find("ktmpi_queue_time_seconds_count 1\n"), text.npos);
  for (const char* name :
       {"requests_running", "requests_waiting", "requests_swapped", "prompt_tokens_total", "generation_tokens_total",
        "e2e_request_latency_seconds", "kv_tokens_cached", "prefix_cache_hits_total", "prefix_cache_queries_total",
        "step_seconds", "step_age_seconds", "batch_tokens", "rank_info"})
    EXPECT_NE(text.find(std::string("# TYPE ktmpi_") + name + " "), text.npos) << name;
  EXPECT_NE(text.find("ktmpi_step_seconds_count{phase=\"decode\"} 0\n"), text.npos);
  EXPECT_NE(text.find("ktmpi_build_info{version=\"9.8.7\",model_name=\"fake/model\"} 1\n"), text.npos);
}

TEST(Http, MetricsSayWhatTheTimeOfEachRankWentInto) {
  StepTotals expert_rank;
  PhaseTotals& decode = expert_rank[static_cast<size_t>(Phase::decode)];
  decode.steps = 3;
  decode.rows = 12;
  decode[StepPart::experts] = {.seconds = 0.5, .bytes = 4096.0};
  decode[StepPart::wait].seconds = 0.25;
  const Running running(on_any_port(), {.step_totals = {StepTotals(), expert_rank}});

  const std::string text = running.ask(get("/metrics"));
  const auto has = [&](const char* line) { return text.find(std::string("\nktmpi_") + line + "\n") != text.npos; };
  EXPECT_TRUE(has("steps_total{rank=\"1\",phase=\"decode\"} 3")) << text;
  EXPECT_TRUE(has("step_rows_total{rank=\"1\",phase=\"decode\"} 12"));
  EXPECT_TRUE(has("step_seconds_total{rank=\"1\",phase=\"decode\",part=\"experts\",layer=\"moe\"} 0.5"));
  EXPECT_TRUE(has("step_seconds_total{rank=\"1\",phase=\"decode\",part=\"wait\",layer=\"moe\"} 0.25"));
  EXPECT_TRUE(has("step_bytes_total{rank=\"1\",phase=\"decode\",part=\"experts\",layer=\"moe\"} 4096"));
  EXPECT_EQ(text.find("rank=\"1\",phase=\"prefill\""), text.npos) << "parts without time are not listed";
}

TEST(Http, HealthTellsOfAStuckEngineAndOfDraining) {
  {
    const Running stuck(on_any_port(), {.step_age_s = 100});
    EXPECT_EQ(status_of(stuck.ask(get("/health"))), 503);
    EXPECT_EQ(status_of(stuck.ask(get("/health_generate"))), 503);
  }
  Running running;
  running.engine.drain(kShuttingDown);
  EXPECT_EQ(body_of(running.ask(get("/health")))["status"], "draining");
  const std::string refused = running.ask(post("/v1/chat/completions", kChatStream));
  EXPECT_EQ(status_of(refused), 503);
  EXPECT_NE(refused.find("Retry-After: "), refused.npos);
}

TEST(Http, DrainingTurnsNewWorkAwayAndFinishesTheOld) {
  HttpConfig config = on_any_port();
  config.admin_api_key = "boss";
  const Running running(config);
  Client client = running.connect();
  client.send(post("/v1/chat/completions", kChatStream));
  client.read_until("assistant");

  EXPECT_EQ(status_of(running.ask(post("/admin/drain", ""))), 401);
  EXPECT_EQ(status_of(running.ask(post("/admin/drain", "", "X-Api-Key: boss\r\n"))), 200);
  EXPECT_EQ(status_of(running.ask(get("/health"))), 503);
  EXPECT_EQ(status_of(running.ask(post("/generate", R"({"text": "x"})"))), 503);
  const std::string rest = client.read_until("[DONE]");
  EXPECT_NE(rest.find("\"finish_reason\":\"stop\""), rest.npos);
}

TEST(Http, EndingRequestsAnswersEverybodyAtOnce) {
  HttpConfig config = on_any_port();
  Running running(config, {.hold = true});
  Client stream = running.connect(), whole = running.connect();
  stream.send(post("/v1/chat/completions", kChatStream));
  whole.send(post("/v1/chat/completions", kChat));
  EXPECT_TRUE(wait_for([&] { return running.engine.stats().running == 2; }, 2));

  running.server.end_requests({503, "the server is leaving", "", "shutting_down"});
  const std::string events = stream.read_until("[DONE]");
  EXPECT_NE(events.find("{\"error\":{\"message\":\"the server is leaving\""), events.npos);
  const std::string response = whole.read_response();
  EXPECT_EQ(status_of(response), 503);
  EXPECT_EQ(body_of(response)["error"]["code"], "shutting_down");
  EXPECT_TRUE(wait_for([&] { return running.engine.aborts == 2; }, 1));
}

TEST(Http, LogsSizesAndTimesButNoText) {
  HttpConfig config = on_any_port();
  config.log_requests = true;
  config.api_keys = {"the-key"};
  testing::internal::CaptureStderr();
  {
    const Running running(config);
    running.ask(post("/v1/chat/completions",
                     R"({"messages": [{"role": "user", "content": "my secret"}], "rid": "a\nb \u00e9"})",
                     "Content-Type: application/json\r\nX-Api-Key: the-key\r\n"));
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find(R"(request "a\nb \u00e9" /v1/chat/completions 200 stop: 25 prompt, 0 cached, 26 completion)"),
            text.npos)
      << text;
  EXPECT_EQ(text.find("secret"), text.npos);
  EXPECT_EQ(text.find("the-key"), text.npos);
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

TEST(Http, OnlyServersOpenToTheNetworkHaveAnyName) {
  const std::vector<std::string> others = {"chat.example"};
  const OwnNames local{"127.0.0.1", {}}, proxied{"127.0.0.1", others}, open{"0.0.0.0", {}};
  EXPECT_TRUE(is_own_host("127.0.0.1:30000", local));
  EXPECT_TRUE(is_own_host("[::1]:30000", OwnNames{"::1", {}}));
  EXPECT_TRUE(is_own_host("LocalHost", local));
  EXPECT_FALSE(is_own_host("rebound.example:30000", local));
  EXPECT_FALSE(is_own_host("localhost.example", local));
  EXPECT_TRUE(is_own_host("Chat.example", proxied));
  EXPECT_FALSE(is_own_host("evil.chat.example", proxied));
  EXPECT_TRUE(is_own_host("node17.cluster:30000", open));
  EXPECT_TRUE(is_same_origin("https://chat.example", "chat.example", proxied));
  EXPECT_FALSE(is_same_origin("https://evil.example", "chat.example", proxied));
  EXPECT_FALSE(is_same_origin("http://rebound.example", "rebound.example", open));
  EXPECT_TRUE(is_same_origin("http://rebound.example", "rebound.example", OwnNames{"0.0.0.0", {}, /*keys=*/true}))
      << "its page has no key";
  EXPECT_FALSE(is_same_origin("http://rebound.example", "rebound.example", OwnNames{"127.0.0.1", {}, /*keys=*/true}));
}

TEST(Http, ThePageOfAServerThatIsOpenToTheNetworkWorksByTheMachinesName) {
  std::array<char, 256> name{};
  ASSERT_EQ(gethostname(name.data(), name.size() - 1), 0);
  const std::vector<std::string> names = machine_names();
  ASSERT_FALSE(names.empty());
  HttpConfig config = on_any_port();
  config.host = "0.0.0.0";
  const Running running(config);
  const auto ask_as = [&](const std::string& host) {
    return status_of(
        running.ask(fmt::format("GET /v1/models HTTP/1.1\r\nHost: {0}:1\r\nOrigin: http://{0}:1\r\n\r\n", host)));
  };
  EXPECT_EQ(ask_as(name.data()), 200);
  for (const std::string& own : names) EXPECT_EQ(ask_as(own), 200) << own;
  EXPECT_EQ(ask_as("rebound.example"), 403);
}

TEST(Http, NoPageOfAnotherOriginIsLetIn) {
  const Running running;
  const std::string preflight = running.ask(
      "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
      "Access-Control-Request-Method: POST\r\n\r\n");
  EXPECT_EQ(status_of(preflight), 403);
  EXPECT_EQ(preflight.find("Access-Control-Allow"), preflight.npos);
  EXPECT_EQ(running.ask(get("/v1/models")).find("Access-Control-Allow"), std::string::npos);
}

TEST(Http, NoImageOfAnotherSiteIsARequest) {
  const Running running;
  const std::string by_image = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n";
  for (const char* path : {"/flush_cache", "/start_expert_distribution_record", "/v1/models", "/nowhere"}) {
    const std::string answer = running.ask(get(path, by_image));
    EXPECT_EQ(status_of(answer), 403) << path;
    EXPECT_EQ(body_of(answer)["error"]["code"], "origin_refused") << path;
  }
  EXPECT_EQ(status_of(running.ask(get("/", by_image))), 200) << "a link to the page";
  EXPECT_EQ(status_of(running.ask(get("/flush_cache", "Sec-Fetch-Site: same-origin\r\n"))), 200);
}

TEST(Http, PagesOfAllowedOriginsAreLetIn) {
  HttpConfig config = on_any_port();
  config.origins = {"https://chat.example"};
  const Running running(config);
  const std::string from_page = "Host: localhost\r\nOrigin: https://Chat.example\r\n";
  const std::string preflight = running.ask("OPTIONS /v1/chat/completions HTTP/1.1\r\n" + from_page +
                                            "Access-Control-Request-Method: POST\r\n"
                                            "Access-Control-Request-Headers: authorization,content-type\r\n\r\n");
  EXPECT_EQ(status_of(preflight), 204);
  for (const char* header : {"Access-Control-Allow-Origin: https://Chat.example\r\n", "Vary: Origin\r\n",
                             "Access-Control-Allow-Methods: GET, POST, DELETE\r\n",
                             "Access-Control-Allow-Headers: authorization,content-type\r\n"})
    EXPECT_NE(preflight.find(header), preflight.npos) << header;
  const std::string models = running.ask("GET /v1/models HTTP/1.1\r\n" + from_page + "\r\n");
  EXPECT_EQ(status_of(models), 200);
  EXPECT_NE(models.find("Access-Control-Allow-Origin: https://Chat.example\r\n"), models.npos);
  const std::string missing = running.ask("GET /nothing HTTP/1.1\r\n" + from_page + "\r\n");
  EXPECT_EQ(status_of(missing), 404);
  EXPECT_NE(missing.find("Access-Control-Allow-Origin"), missing.npos);
  const std::string evil = running.ask(get("/v1/models", "Origin: https://evil.chat.example\r\n"));
  EXPECT_EQ(status_of(evil), 403);
  EXPECT_EQ(evil.find("Access-Control"), evil.npos);
  EXPECT_EQ(running.ask(get("/v1/models")).find("Access-Control"), std::string::npos);
}

TEST(Http, HealthGenerateGivesUpOnASilentEngine) {
  HttpConfig config = on_any_port();
  config.health_timeout_s = 0.1;
  const Running running(config, {.hold = true});
  EXPECT_EQ(status_of(running.ask(get("/health_generate"))), 503);
  EXPECT_TRUE(wait_for([&] { return running.engine.aborts == 1; }));
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

TEST(Http, AKeyHasALimitOfOpenRequests) {
  HttpConfig config = on_any_port();
  config.api_keys = {"one", "two"};
  config.max_requests_of_key = 2;
  const Running running(config, {.hold = true});
  const auto ask_with = [](const char* key) {
    return post("/v1/chat/completions", kChatStream,
                fmt::format("Content-Type: application/json\r\nAuthorization: Bearer {}\r\n", key));
  };
  Client first = running.connect(), second = running.connect(), other = running.connect();
  first.send(ask_with("one"));
  EXPECT_EQ(status_of(first.read_until("\r\n\r\n")), 200);
  second.send(ask_with("one"));
  EXPECT_EQ(status_of(second.read_until("\r\n\r\n")), 200);

  const std::string refused = running.ask(ask_with("one"));
  EXPECT_EQ(status_of(refused), 429);
  EXPECT_NE(refused.find("Retry-After: "), refused.npos);
  other.send(ask_with("two"));
  EXPECT_EQ(status_of(other.read_until("\r\n\r\n")), 200);
  const std::vector<GenerateRequest> seen = running.engine.seen();
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0].client, seen[1].client);
  EXPECT_NE(seen[0].client, seen[2].client) << "keys take turns";
}

TEST(Http, ADisconnectAbortsWithin100ms) {
  const Running running(on_any_port(), {.hold = true});
  const std::string three = R"({"messages": [{"role": "user", "content": "x"}], "n": 3})";
  for (const auto& [body, choices] : {std::pair(kChat, 1), std::pair(kChatStream, 1), std::pair(three, 3)}) {
    double best = 10;  // of five tries: on a busy machine any of them may have to wait for a core
    for (int i = 0; i < 5 && best >= 0.1; ++i) {
      const int before = running.engine.aborts;
      Client client = running.connect();
      client.send(post("/v1/chat/completions", body));
      ASSERT_TRUE(wait_for([&, n = choices] { return running.engine.stats().running == n; }));

      const auto start = Clock::now();
      client.hang_up();
      ASSERT_TRUE(wait_for([&, n = choices] { return running.engine.aborts == before + n; }));
      best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
      ASSERT_TRUE(wait_for([&] { return running.engine.stats().running == 0; }));
    }
    EXPECT_LT(best, 0.1) << body;
  }
}

TEST(Http, StartStopAndDumpARecording) {
  const TempFolder folder;
  Recorder recorder({.folder = folder.path(), .moe = {true}, .experts = 2, .top_k = 1});
  const std::vector<int32_t> counts = {3, 4};
  const Running running(on_any_port(), {}, &recorder);

  EXPECT_EQ(status_of(running.ask(get("/dump_expert_distribution_record"))), 400);
  const std::string start = running.ask(post("/start_expert_distribution_record", ""));
  EXPECT_EQ(status_of(start), 200);
  EXPECT_TRUE(start.ends_with("\r\n\r\nStart recording the expert distribution.\n"));
  recorder.record({.counts = counts});
  EXPECT_TRUE(
      running.ask(get("/stop_expert_distribution_record")).ends_with("Stop recording the expert distribution.\n"));
  EXPECT_FALSE(recorder.recording());
  const std::string dump = running.ask(get("/dump_expert_distribution_record"));

  const std::string file = std::filesystem::directory_iterator(folder.path())->path().string();
  EXPECT_EQ(status_of(dump), 200);
  EXPECT_TRUE(dump.ends_with("Dump expert distribution record to " + file + "\n")) << dump;
}

TEST(Http, ARecordingThatCannotBeWrittenIsAnError) {
  const TempFolder folder;
  folder.write("file", "");
  Recorder recorder({.folder = folder.path() / "file", .moe = {true}, .experts = 2, .top_k = 1});
  const std::vector<int32_t> counts = {3, 4};
  const Running running(on_any_port(), {}, &recorder);
  recorder.start();
  recorder.record({.counts = counts});

  const std::string dump = running.ask(post("/dump_expert_distribution_record", ""));

  EXPECT_EQ(status_of(dump), 500);
  EXPECT_NE(body_of(dump)["error"]["message"].get<std::string>().find(folder.path().string()), std::string::npos);
}

TEST(Http, WithoutARecorderThereIsNothingToStart) {
  EXPECT_EQ(status_of(Running().ask(get("/start_expert_distribution_record"))), 404);
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
  EXPECT_EQ(
      texts("/generate", R"({"text": "abcdefgh", "stream": true, "sampling_params": {"stream_interval": 4}})", "text"),
      (Texts{"a", "abcde", "abcdefgh"}));
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
  EXPECT_NE(testing::internal::GetCapturedStderr().find(" s, X-Request-Id my-3\n"), std::string::npos);
}

TEST(Http, ToGetAheadOfOthersTakesARight) {
  const std::string json = "Content-Type: application/json\r\n";
  const auto ask_with = [&](int priority, const std::string& key) {
    return post("/v1/completions", fmt::format(R"({{"prompt": "a", "priority": {}}})", priority),
                key.empty() ? json : fmt::format("{}X-Api-Key: {}\r\n", json, key));
  };
  HttpConfig config = on_any_port();
  config.api_keys = {"user"};
  config.admin_api_key = "boss";
  const Running running(config);
  const std::string refused = running.ask(ask_with(1, "user"));
  EXPECT_EQ(status_of(refused), 403);
  EXPECT_EQ(body_of(refused)["error"]["param"], "priority");
  EXPECT_EQ(status_of(running.ask(ask_with(0, "user"))), 200);
  EXPECT_EQ(status_of(running.ask(ask_with(-5, "user"))), 200);
  EXPECT_EQ(status_of(running.ask(ask_with(1, "boss"))), 200);
  EXPECT_EQ(running.engine.seen().back().priority, 1);

  EXPECT_EQ(status_of(Running().ask(ask_with(1, ""))), 403) << "without keys all are equal";
  HttpConfig open = on_any_port();
  open.priority_for_all = true;
  EXPECT_EQ(status_of(Running(open).ask(ask_with(1, ""))), 200);
}

TEST(Http, AKeyThatNobodyChecksMakesNoOtherClient) {
  HttpConfig config = on_any_port();
  config.admin_api_key = "boss";
  const Running running(config);
  for (const char* key : {"a", "b", "boss"})
    EXPECT_EQ(status_of(running.ask(post("/generate", R"({"text": "a"})",
                                         fmt::format("Content-Type: application/json\r\nX-Api-Key: {}\r\n", key)))),
              200);
  const std::vector<GenerateRequest> seen = running.engine.seen();
  EXPECT_EQ(seen.at(0).client, seen.at(1).client);
  EXPECT_EQ(seen[0].client, "address 127.0.0.1");
  EXPECT_NE(seen[0].client, seen.at(2).client);
}

TEST(Http, AClientIsAnAddressOrAWholeIpv6Network) {
  const auto client = [](const char* address) { return client_address(asio::ip::make_address(address)).to_string(); };
  EXPECT_EQ(client("10.1.2.3"), "10.1.2.3");
  EXPECT_EQ(client("::ffff:10.1.2.3"), "10.1.2.3");
  EXPECT_EQ(client("2001:db8:1:2:3::4"), client("2001:db8:1:2:ffff::1"));
  EXPECT_NE(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
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

TEST(Http, LoadBalancersFindTheirPaths) {
  const Running running(on_any_port(), {.hold = true});
  EXPECT_EQ(status_of(running.ask(get("/ping"))), 200);
  Client client = running.connect();
  client.send(post("/v1/chat/completions", kChatStream));
  client.read_until("\r\n\r\n");
  const Json load = body_of(running.ask(get("/get_load")));
  EXPECT_EQ(load[0]["num_reqs"], 1);
  EXPECT_EQ(load[0]["num_waiting_reqs"], 0);
}

bool connects(const char* address, int port) {
  asio::io_context io;
  asio::ip::tcp::socket socket(io);
  boost::system::error_code ec;
  socket.connect({asio::ip::make_address(address), static_cast<uint16_t>(port)}, ec);
  return !ec;
}

bool has_ipv6() {
  asio::io_context io;
  boost::system::error_code ec;
  asio::ip::tcp::acceptor acceptor(io);
  acceptor.open(asio::ip::tcp::v6(), ec);
  if (!ec) acceptor.bind({asio::ip::address_v6::loopback(), 0}, ec);
  return !ec;
}

TEST(Http, LocalhostIsBothOfItsAddresses) {
  HttpConfig config = on_any_port();
  config.host = "localhost";
  const HttpServer server(config);
  EXPECT_EQ(server.url(), fmt::format("http://localhost:{}", server.port()));
  EXPECT_TRUE(connects("127.0.0.1", server.port()));
  if (!has_ipv6()) GTEST_SKIP() << "this machine has no IPv6";
  EXPECT_TRUE(connects("::1", server.port()));
}

TEST(Http, OfAllAddressesItsUrlNamesTheMachine) {
  HttpConfig config = on_any_port();
  config.host = "0.0.0.0";
  const HttpServer server(config);
  EXPECT_EQ(server.url(), fmt::format("http://{}:{}", machine_names().front(), server.port()));
  EXPECT_EQ(server.url().find("0.0.0.0"), std::string::npos);
}

TEST(Http, AllAddressesAreThoseOfBothFamilies) {
  if (!has_ipv6()) GTEST_SKIP() << "this machine has no IPv6";
  HttpConfig config = on_any_port();
  config.host = "::";
  const HttpServer server(config);
  EXPECT_TRUE(connects("127.0.0.1", server.port()));
  EXPECT_TRUE(connects("::1", server.port()));
}

TEST(Http, WhatCannotBeListenedOnSaysWhetherAPortIsTaken) {
  const auto code = [](const std::string& host, int port) {
    HttpConfig config;
    config.host = host;
    config.port = port;
    try {
      HttpServer server(config);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(host), std::string::npos) << error.what();
      return static_cast<int>(error.exit_code());
    }
    return 0;
  };
  HttpConfig taken = on_any_port();
  taken.host = has_ipv6() ? "::1" : "127.0.0.1";
  const HttpServer first(taken);
  EXPECT_EQ(code(taken.host, first.port()), kExitPort);
  EXPECT_EQ(code("localhost", first.port()), kExitPort) << "one of its addresses is taken";
  EXPECT_EQ(code("no such host", 0), kExitUsage);
  EXPECT_EQ(code("/run/ktmpi.sock", 0), kExitUsage);
  EXPECT_EQ(code("192.0.2.1", 0), kExitUsage) << "an address of no machine";
  if (geteuid() == 0) return;  // root may listen on all ports
  EXPECT_EQ(code("127.0.0.1", 1), kExitUsage);
}

// The server's end of a client's connection: both are in this process.
int socket_to(int port_of_client) {
  for (int fd = 0; fd < 1024; ++fd) {
    sockaddr_in peer{};
    socklen_t size = sizeof peer;
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0 && ntohs(peer.sin_port) == port_of_client)
      return fd;
  }
  return -1;
}

TEST(Http, AClientThatHasVanishedIsFoundOut) {
  const Running running;
  Client client = running.connect();
  client.send(get("/health"));
  client.read_response();
  const int fd = socket_to(client.local_port());
  ASSERT_GE(fd, 0);
  const auto option = [&](int level, int name) {
    int value = 0;
    socklen_t size = sizeof value;
    EXPECT_EQ(getsockopt(fd, level, name, &value, &size), 0);
    return value;
  };
  EXPECT_EQ(option(SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_LE(option(IPPROTO_TCP, TCP_KEEPIDLE) + option(IPPROTO_TCP, TCP_KEEPINTVL) * option(IPPROTO_TCP, TCP_KEEPCNT),
            60);
  EXPECT_EQ(option(IPPROTO_TCP, TCP_USER_TIMEOUT), 60000);
}

// All that a stream of /generate has said is in its newest event: the others need not wait for the reader.
TEST(Http, ASlowReaderOfACumulativeStreamGetsFewerEventsAndIsNotDropped) {
  const Running running(on_any_port(), {.step = std::chrono::milliseconds(1), .text_per_step = 16 << 10});
  Client client(running.server.port(), 4096);
  client.send(post("/generate", R"({"text": "a", "stream": true, "sampling_params": {"max_new_tokens": null}})"));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // some 40 MB, sent one by one

  EXPECT_EQ(running.engine.aborts, 0);
  EXPECT_NE(running.ask(get("/metrics")).find("ktmpi_http_slow_readers_dropped_total 0\n"), std::string::npos);
}

TEST(Http, SlowRequestsAreClosedAtADeadline) {
  HttpConfig config = on_any_port();
  config.header_timeout_s = 0.2;
  config.request_timeout_s = 0.4;
  config.idle_timeout_s = 0.3;
  const Running running(config);
  const auto drip = [&](const std::string& start) {  // one byte every 20 ms
    Client client = running.connect();
    client.send(start);
    const auto begin = Clock::now();
    std::string answer;
    while (answer.empty() && !client.closed() && Clock::now() < begin + std::chrono::seconds(3)) {
      client.send("x");
      answer = client.read_until("\r\n\r\n", 0.02);
    }
    EXPECT_LT(std::chrono::duration<double>(Clock::now() - begin).count(), 1.0);
    return status_of(answer);
  };
  EXPECT_EQ(drip("GET / HTTP/1.1\r\nX: "), 408);
  EXPECT_EQ(drip("POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
                 "1000\r\n\r\n"),
            408);
  Client silent = running.connect();
  EXPECT_EQ(silent.read_until("", 2), "");
  EXPECT_TRUE(silent.closed());
}

TEST(Http, AClientThatDoesNotReadIsDropped) {
  const Running running(on_any_port(), {.step = std::chrono::milliseconds(1), .text_per_step = 64 << 10});
  Client client(running.server.port(), 4096);
  client.send(post("/v1/completions", R"({"prompt": "a", "stream": true, "max_tokens": 100000})"));
  EXPECT_TRUE(wait_for([&] { return running.engine.aborts == 1; }));
  const std::string text = running.ask(get("/metrics"));
  EXPECT_NE(text.find("ktmpi_http_slow_readers_dropped_total 1\n"), text.npos);
}

TEST(Http, AFloodOfPipelinedRequestsWaitsForItsReader) {
  const Running running;
  Client client(running.server.port(), 4096);
  std::thread writer([&] {
    const std::string batch = [] {
      std::string all;
      for (int i = 0; i < 100; ++i) all += get("/version");
      return all;
    }();
    for (int i = 0; i < 200; ++i) client.send(batch);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(status_of(running.ask(get("/health"))), 200);
  int answers = 0;
  while (answers < 20000 && client.read_until("{\"version\":\"9.8.7\"}", 5).ends_with('}')) ++answers;
  writer.join();
  EXPECT_EQ(answers, 20000);
}

TEST(Http, MoreConnectionsThanAllowedAreTurnedAway) {
  HttpConfig config = on_any_port();
  config.max_connections = 2;
  const Running running(config);
  Client first = running.connect(), second = running.connect();
  first.send(get("/health"));
  second.send(get("/health"));
  first.read_response();
  second.read_response();
  Client third = running.connect();
  EXPECT_EQ(status_of(third.read_until("")), 503);
}

TEST(Http, OneAddressCannotTakeAllConnections) {
  HttpConfig config = on_any_port();
  config.max_connections_of_one = 1;
  const Running running(config);
  for (int i = 0; i < 3; ++i) {  // each place is free again once its client has gone
    std::unique_ptr<Client> only;
    ASSERT_TRUE(wait_for([&] {
      only.reset();
      only = std::make_unique<Client>(running.connect());
      only->send(get("/health"));
      return status_of(only->read_response()) == 200;
    }));
    Client second = running.connect();
    EXPECT_EQ(status_of(second.read_until("")), 503);
  }
}

TEST(Http, ServesTwoHundredStreamsOfWhichHalfHangUp) {
  const Running running(on_any_port(), {.step = std::chrono::milliseconds(5)});
  const std::string body = R"({"prompt": ")" + std::string(60, 'y') + R"(", "max_tokens": 60, "stream": true})";
  std::vector<Client> clients;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(running.connect());
    clients.back().send(post("/v1/completions", body));
  }
  for (Client& client : clients) ASSERT_TRUE(client.read_until("\"text\":\"y\"", 10).ends_with("\"y\""));
  for (size_t i = 0; i < clients.size(); i += 2) clients[i].hang_up();
  int complete = 0;
  for (size_t i = 1; i < clients.size(); i += 2)
    complete += clients[i].read_until("[DONE]\n\n", 20).ends_with("[DONE]\n\n");

  EXPECT_EQ(complete, 100);
  EXPECT_TRUE(wait_for([&] { return running.engine.stats().running == 0; }));
  EXPECT_GT(running.engine.aborts, 0);
  EXPECT_EQ(status_of(running.ask(post("/v1/chat/completions", kChat))), 200);
}

TEST(Http, OldClientsGetTheirStreamWithoutChunks) {
  const Running running;
  Client client = running.connect();
  const std::string body = R"({"prompt": "ab", "stream": true})";
  client.send("POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n" + body);
  const std::string all = client.read_until("");
  EXPECT_EQ(all.find("Transfer-Encoding"), all.npos);
  EXPECT_TRUE(all.ends_with("data: [DONE]\n\n"));
}

TEST(Http, AnswersLeaveBeforeTheServerStops) {
  auto running = std::make_unique<Running>();
  Client client = running->connect();
  client.send(post("/generate", R"({"text": "abc"})"));
  ASSERT_TRUE(wait_for([&] { return !running->engine.seen().empty(); }));
  running.reset();  // the engine ends what it has, then the server stops
  const int status = status_of(client.read_until(""));
  EXPECT_TRUE(status == 200 || status == 503) << status;
}

}  // namespace
}  // namespace kt
