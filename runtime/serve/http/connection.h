#pragma once

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "runtime/serve/http/metrics.h"
#include "runtime/serve/http/request_log.h"
#include "runtime/serve/http/request_reader.h"
#include "runtime/serve/service.h"

namespace kt {

class Connection;
struct Route;

// What a connection asks of the server. Called on the io thread.
class ConnectionEvents {
 public:
  virtual ~ConnectionEvents() = default;
  // Said once for each request, before its body is read: the route that on_request gets, or a response that refuses it.
  virtual std::variant<const Route*, HttpResponse> on_head(const HttpRequest& request) = 0;
  virtual void on_request(std::shared_ptr<Connection> connection, const Route& route, HttpRequest request) = 0;
  virtual void on_closed(Connection& connection) = 0;
};

// One client's socket: requests in, answers out, one at a time, in order. A read is always pending, so that a client
// that goes away is noticed at once; only one that has sent far ahead is not read from until its turn comes. All on
// the io thread; it lives as long as some operation is pending.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(boost::asio::ip::tcp::socket socket, const HttpConfig& config, Metrics& metrics, ConnectionEvents& events);

  void start();

  // The answer to the request under way: one response, or a stream of events. Without effect once the client is gone.
  void respond(const HttpResponse& response);
  void begin_stream();
  void send(std::string_view events);  // drops a client that leaves too much unread
  void end_stream();
  bool writing() const { return writing_; }  // something has not left for the kernel yet

  // Names the request under way in the header of its answer, unless its client did. Before respond or begin_stream.
  void name_request(const std::string& id);
  const Asked& asked() const { return asked_; }

  // Called once if the client goes away before the answer is complete. A client that has only said that it will send
  // no more (half close) counts as gone from here on.
  void set_on_gone(std::function<void()> on_gone);
  bool gone() const { return closed_ || eof_; }

  void close_when_done();  // after the answer under way
  void end_with_next_answer() { last_answer_ = true; }
  void drop();  // now

 private:
  void read();
  void on_read_end(bool reset);
  void advance();
  bool step();
  bool on_head();
  void refuse(const ApiError& error);
  void begin_answer(bool keep_alive);
  void finish_answer();
  void flush();
  void linger();
  void on_deadline();
  void expire_in(boost::asio::steady_timer& timer, double seconds, void (Connection::*then)());

  boost::asio::ip::tcp::socket socket_;
  const HttpConfig& config_;
  Metrics& metrics_;
  ConnectionEvents& events_;
  RequestReader reader_;
  const Route* route_ = nullptr;        // of the request that is read, from its head on
  boost::asio::steady_timer deadline_;  // of what is read: idle, header, body, lingering
  boost::asio::steady_timer write_deadline_;
  std::chrono::steady_clock::time_point request_start_;

  std::array<char, 8192> chunk_;
  std::string in_;       // read, not parsed
  std::string pending_;  // to be written after
  std::string out_;      // what is being written
  std::function<void()> on_gone_;
  bool reading_ = false, writing_ = false, advancing_ = false;
  bool busy_ = false;                                              // a request is being answered
  bool keep_alive_ = true, head_only_ = false, http_1_0_ = false;  // of that request
  Asked asked_;
  std::string cors_;          // further header lines of its answer
  bool chunked_ = false;      // of that answer
  bool eof_ = false;          // the client sends no more
  bool closing_ = false;      // no more requests; close when all is written
  bool last_answer_ = false;  // the next to be begun
  bool lingering_ = false;
  bool closed_ = false;
};

}  // namespace kt
