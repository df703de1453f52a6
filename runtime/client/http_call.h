#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/client/endpoint.h"

namespace kt {

struct HttpCallEvents {
  std::function<void(int status)> on_status;            // once, before the body
  std::function<void(std::string_view piece)> on_body;  // in order
  // Once, last: "" when the response is complete, otherwise what went wrong. Not called after cancel.
  std::function<void(std::string error)> on_end;
};

// One request on a connection of its own. Everything happens on the thread that runs `io`.
class HttpCall {
 public:
  virtual ~HttpCall() = default;
  virtual void cancel() = 0;  // closes the connection, which ends the request in the server too
};

// body: "" for GET, JSON for POST. The call lives until it ends, also when the caller lets go of it.
std::shared_ptr<HttpCall> start_call(boost::asio::io_context& io, const Endpoint& endpoint, std::string_view target,
                                     std::string body, HttpCallEvents events);

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
