#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/serve/service.h"

namespace kt {

// The HTTP endpoint of rank 0. It listens from construction on, before anything else is loaded, so that a taken port
// fails early; until serve() every path but /health is answered 503 "loading". One io thread owns all sockets, a few
// workers parse, render and tokenise.
class HttpServer {
 public:
  explicit HttpServer(HttpConfig config);  // throws Error(kExitPort)
  // On sockets that listen on the config's host already; they are the server's from now on.
  HttpServer(HttpConfig config, const std::vector<int>& sockets);
  ~HttpServer();  // stop()

  int port() const;         // the real one when 0 was asked for
  std::string url() const;  // "http://127.0.0.1:30000"

  // The sockets on which it listens, for another process to do so too; they stay the server's.
  std::vector<int> sockets() const;

  // Leaves new connections to the other process, and ends each that is open with its next answer; takes them again.
  // From any thread.
  void pause();
  void resume();

  // Requests go to `engine` from now on. It outlives the server, and its run() has returned before stop().
  void serve(Engine& engine, ServedModel model);

  // Answers every request for text that is open with this error. From any thread.
  void end_requests(ApiError error);

  // Takes no new connections, lets answers leave for at most stop_timeout_s, and ends the threads.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kt
