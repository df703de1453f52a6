#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "runtime/serve/errors.h"
#include "runtime/serve/service.h"

namespace kt {

// Whether `text` can go into an X-Request-Id header: visible ASCII, not too long.
bool is_request_id(std::string_view text);

// HTTP/1.x requests from a stream of bytes, without a socket. Strict where leniency has hurt others: one of
// Content-Length and Transfer-Encoding, no folded header lines, one Host, limits on everything.
class RequestReader {
 public:
  enum class State : uint8_t {
    need_more,  // what cannot be used yet stays in `bytes`
    head,       // the header is complete; said once for each request, before its body is read
    done,       // the request is complete; what is left in `bytes` belongs to the next
    failed,     // see error(); the connection has to end
  };

  explicit RequestReader(const HttpConfig& limits);  // kept by reference
  ~RequestReader();

  State read(std::string& bytes);  // takes from the front what it can use
  void reset();                    // after `done`: on to the next request

  bool begun() const;  // some byte of the request is here
  bool has_head() const;
  bool expects_continue() const;  // after `head`
  bool has_body() const;          // after `head`: a body follows
  HttpRequest& request();         // after `head` without the body, after `done` with it
  const ApiError& error() const;

 private:
  struct Parser;
  State read_head(std::string& bytes);
  State read_body(std::string& bytes);
  State fail(int status, std::string message);

  const HttpConfig& limits_;
  std::unique_ptr<Parser> parser_;
  HttpRequest request_;
  ApiError error_;
  bool begun_ = false, has_head_ = false, body_begun_ = false, expects_continue_ = false;
};

}  // namespace kt
