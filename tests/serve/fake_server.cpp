// fake_server: the real HTTP server on an engine that repeats the prompt, for client tests. Prints its URL and serves
// until its standard input ends. With an argument, that is the API key.

#include <cstdio>
#include <iostream>

#include "runtime/serve/http.h"
#include "tests/serve/fakes.h"

int main(int argc, char** argv) {
  kt::HttpConfig config;
  config.port = 0;
  if (argc > 1) config.api_key = argv[1];
  kt::HttpServer server(config);
  kt::FakeEngine engine;
  server.serve(engine, kt::fake_model());
  std::printf("%s\n", server.url().c_str());
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
  }
  engine.finish();
  server.stop();
}
