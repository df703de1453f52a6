#include "runtime/client/http_call.h"

#include <fmt/format.h>

#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

namespace kt {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using tcp = boost::asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::seconds kConnectTimeout{10};

class Call : public HttpCall, public std::enable_shared_from_this<Call> {
 public:
  Call(boost::asio::io_context& io, const Endpoint& endpoint, HttpCallEvents events)
      : endpoint_(endpoint), events_(std::move(events)), resolver_(io), stream_(io) {
    parser_.body_limit(std::numeric_limits<uint64_t>::max());  // streams have no end that is known
  }

  void start(std::string_view target, std::string body) {
    request_.version(11);
    request_.method(body.empty() ? http::verb::get : http::verb::post);
    request_.target(endpoint_.path + std::string(target));
    request_.set(http::field::host, endpoint_.host);
    request_.set(http::field::user_agent, "ktmpi");
    request_.set(http::field::connection, "close");
    if (!endpoint_.api_key.empty()) request_.set(http::field::authorization, "Bearer " + endpoint_.api_key);
    if (!body.empty()) request_.set(http::field::content_type, "application/json");
    request_.body() = std::move(body);
    request_.prepare_payload();
    resolver_.async_resolve(endpoint_.host, endpoint_.port,
                            [self = shared_from_this()](error_code error, tcp::resolver::results_type found) {
                              if (!self->ended(error, "no address")) self->connect(found);
                            });
  }

  void cancel() override {
    done_ = true;
    resolver_.cancel();
    close();
  }

 private:
  void connect(const tcp::resolver::results_type& found) {
    stream_.expires_after(kConnectTimeout);
    stream_.async_connect(found, [self = shared_from_this()](error_code error, const tcp::endpoint&) {
      if (!self->ended(error, "no connection")) self->write();
    });
  }

  void write() {
    stream_.expires_never();
    error_code ignored;
    stream_.socket().set_option(tcp::no_delay(true), ignored);
    http::async_write(stream_, request_, [self = shared_from_this()](error_code error, size_t) {
      if (!self->ended(error, "sending failed")) self->read_header();
    });
  }

  void read_header() {
    http::async_read_header(stream_, buffer_, parser_, [self = shared_from_this()](error_code error, size_t) {
      if (self->ended(error, "no answer")) return;
      if (self->events_.on_status) self->events_.on_status(self->parser_.get().result_int());
      self->read_body();
    });
  }

  void read_body() {
    if (done_) return;
    if (parser_.is_done()) {
      end("");
      return;
    }
    parser_.get().body().data = piece_.data();
    parser_.get().body().size = piece_.size();
    http::async_read_some(stream_, buffer_, parser_, [self = shared_from_this()](error_code error, size_t) {
      if (error == http::error::need_buffer) error = {};  // the piece is full
      if (self->ended(error, "the answer broke off")) return;
      const size_t size = self->piece_.size() - self->parser_.get().body().size;
      if (size > 0 && self->events_.on_body) self->events_.on_body({self->piece_.data(), size});
      self->read_body();
    });
  }

  // Whether the call is over, because of `error` or by cancel.
  bool ended(error_code error, std::string_view what) {
    if (error && !done_)
      end(fmt::format("http://{}:{}: {}: {}", endpoint_.host, endpoint_.port, what, error.message()));
    return done_;
  }

  void end(std::string error) {
    done_ = true;
    close();
    if (events_.on_end) events_.on_end(std::move(error));
  }

  void close() {
    error_code ignored;
    stream_.socket().close(ignored);
  }

  Endpoint endpoint_;
  HttpCallEvents events_;
  tcp::resolver resolver_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  http::request<http::string_body> request_;
  http::response_parser<http::buffer_body> parser_;
  std::array<char, 16384> piece_;
  bool done_ = false;
};

}  // namespace

std::shared_ptr<HttpCall> start_call(boost::asio::io_context& io, const Endpoint& endpoint, std::string_view target,
                                     std::string body, HttpCallEvents events) {
  const auto call = std::make_shared<Call>(io, endpoint, std::move(events));
  call->start(target, std::move(body));
  return call;
}

HttpAnswer fetch(const Endpoint& endpoint, std::string_view target, std::string body, double timeout_s) {
  boost::asio::io_context io;
  HttpAnswer answer;
  bool over = false;
  const auto call = start_call(io, endpoint, target, std::move(body),
                               {.on_status = [&](int status) { answer.status = status; },
                                .on_body = [&](std::string_view piece) { answer.body += piece; },
                                .on_end =
                                    [&](std::string error) {
                                      answer.error = std::move(error);
                                      over = true;
                                    }});
  io.run_for(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(timeout_s)));
  if (!over) {
    call->cancel();
    answer.error =
        fmt::format("http://{}:{}{}: no answer within {} s", endpoint.host, endpoint.port, target, timeout_s);
  }
  return answer;
}

std::string error_message(std::string_view body) {
  const auto json = nlohmann::json::parse(body, nullptr, false);
  if (json.is_object()) {
    const auto error = json.find("error");
    const auto& holder = error != json.end() && error->is_object() ? *error : json;
    if (const auto message = holder.find("message"); message != holder.end() && message->is_string())
      return message->get<std::string>();
    if (error != json.end() && error->is_string()) return error->get<std::string>();
  }
  constexpr size_t kShown = 300;
  return std::string(body.substr(0, kShown)) + (body.size() > kShown ? "..." : "");
}

}  // namespace kt
