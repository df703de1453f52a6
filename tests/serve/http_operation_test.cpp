// What operators ask for: health, metrics, information, recordings, draining, the log.
#include "runtime/serve/http/http.h"

#include <gtest/gtest.h>
#include "runtime/base/error.h"
#include "tests/temp_folder.h"

#include "tests/serve/running_server.h"

namespace kt {
namespace {

TEST(Http, AnswersLoadingUntilThereIsAnEngine) {
  HttpServer server(on_any_port());
  Client client(server.port());

  client.send(get("/health") + get("/status") + get("/v1/models"));
  const std::string health = client.read_response();
  EXPECT_EQ(body_of(client.read_response()).dump(), R"({"status":"loading"})");
  const std::string models = client.read_response();

  EXPECT_EQ(status_of(health), 503);
  EXPECT_EQ(body_of(health)["status"], "loading");
  EXPECT_EQ(status_of(models), 503);
  EXPECT_NE(models.find("Retry-After: "), models.npos);
  EXPECT_EQ(body_of(models)["error"]["code"], "loading");
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

TEST(Http, HealthGenerateGivesUpOnASilentEngine) {
  HttpConfig config = on_any_port();
  config.health_timeout_s = 0.1;
  const Running running(config, {.hold = true});
  EXPECT_EQ(status_of(running.ask(get("/health_generate"))), 503);
  EXPECT_TRUE(wait_for([&] { return running.engine.aborts == 1; }));
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

}  // namespace
}  // namespace kt
