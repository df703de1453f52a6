#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/client/endpoint.h"

namespace kt {

struct HttpCallEvents {
  std::function<void(int status)> on_status;            // once, before the body
  std::function<void(std::string_view piece)> on_body;  // in order
  std::function<void(std::string error)> on_end;        // once, last: "" when the response is complete
};

// Requests under way, each on a connection of its own, over http, https and the proxies that http_proxy, https_proxy,
// all_proxy and no_proxy name; this machine is asked without them. Certificates must be signed by those that the system
// trusts, or SSL_CERT_FILE names. One thread uses it; events happen in `wait`. With the
// client its requests end, in the servers too.
class HttpClient {
 public:
  HttpClient();
  ~HttpClient();

  // body: "" for GET, JSON for POST.
  void start(const Endpoint& endpoint, std::string_view target, std::string body, HttpCallEvents events);
  bool is_busy() const;  // requests are under way
  // Waits until something arrives, a signal comes or the time is over, then calls the events. They may start requests
  // and throw.
  void wait(std::chrono::duration<double> most);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

struct HttpAnswer {
  int status = 0;     // 0: no response
  std::string body;   // whole
  std::string error;  // ""
};

// The whole answer, within `timeout_s`.
HttpAnswer fetch(const Endpoint& endpoint, std::string_view target, std::string body = {}, double timeout_s = 30);

// What an OpenAI-style error body says, or the body itself, shortened.
std::string error_message(std::string_view body);

}  // namespace kt
