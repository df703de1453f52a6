#pragma once

// The whole server on a loopback port, with an engine that repeats the prompt.

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "runtime/serve/http/http.h"
#include "runtime/serve/json.h"
#include "tests/serve/client.h"
#include "tests/serve/fakes.h"

namespace kt {

inline const std::string kChat = R"({"messages": [{"role": "user", "content": "hi"}]})";
inline const std::string kChatStream = R"({"messages": [{"role": "user", "content": "hi"}], "stream": true})";

inline HttpConfig on_any_port() {
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

inline bool wait_for(const std::function<bool()>& condition, double seconds = 10) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline Json body_of(const std::string& response) { return Json::parse(response.substr(response.find("\r\n\r\n") + 4)); }

}  // namespace kt
