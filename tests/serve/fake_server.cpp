// fake_server [KEY,... [TOOL_CALL_PARSER [REASONING_PARSER [MS]]]]: the real HTTP server on an engine that says what it
// is told, not before MS ms, for client tests. Prints its URL and serves until its standard input ends.

#include <cstdio>
#include <iostream>
#include <sstream>

#include "runtime/policy/expert_metrics.h"
#include "runtime/policy/expert_policy.h"
#include "runtime/serve/http/http.h"
#include "tests/serve/fakes.h"

int main(int argc, char** argv) {
  kt::HttpConfig config;
  config.port = 0;
  std::istringstream keys(argc > 1 ? argv[1] : "");
  for (std::string key; std::getline(keys, key, ',');) config.api_keys.push_back(key);
  kt::HttpServer server(config);
  kt::StepTotals expert;  // of rank 1: three parts of its time at work, one in wait
  kt::PhaseTotals& decode = expert[static_cast<size_t>(kt::Phase::decode)];
  decode.steps = 1;
  decode[kt::StepPart::experts].seconds = 3;
  decode[kt::StepPart::experts].bytes = 6e9;
  decode[kt::StepPart::wait].seconds = 1;
  const kt::ExpertStats experts{
      .hot_experts = 6, .experts = 24, .pairs = 80, .hot_pairs = 30, .exchanges = 3, .hot_per_layer = {0, 4, 2}};
  kt::ExpertMap map{.moe = {false, true, true},
                    .hot = {{}, {0, 1, 2, 3}, {4, 5}},
                    .use = {3, 12, std::vector<uint64_t>(36)},
                    .counted = true};
  map.use.counts[12] = 70;  // of layer 1
  map.use.counts[24] = 40, map.use.counts[25] = 20;
  kt::FakeEngine engine({.step = std::chrono::microseconds(200),
                         .first_token = std::chrono::milliseconds(argc > 4 ? std::stoi(argv[4]) : 0),
                         .max_context = 2048,
                         .step_totals = {kt::StepTotals(), expert}});
  kt::ServedModel model = kt::fake_model();
  model.max_context = 2048;
  model.ranks = {{0, "scheduler+trunk", 1'500'000'000}, {0, "expert", 20'000'000'000}, {1, "expert", 0}};
  model.more_metrics = [&] { return to_prometheus(experts); };
  model.expert_status = [&] { return to_json(experts); };
  model.expert_map = [&] { return to_json(map); };
  if (argc > 2 && *argv[2]) model.tools = kt::find_tool_format(argv[2]);
  if (argc > 3 && *argv[3]) model.reasoning = kt::find_reasoning_format(argv[3]);
  server.serve(engine, model);
  std::printf("%s\n", server.url().c_str());
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
  }
  engine.finish();
  server.stop();
}
