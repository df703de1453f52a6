#include "runtime/serve/http/connection.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <ctime>
#include <iterator>
#include <utility>

#include "runtime/serve/http/origin.h"

namespace kt {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr size_t kMaxReadAhead = 64 << 10;   // of requests sent before the answer to the one under way
constexpr size_t kMaxUnwritten = 256 << 10;  // answers waiting; beyond it the next request has to wait
constexpr double kLingerSeconds = 2;
constexpr double kSlowestBytesPerSecond = 64 << 10;
constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

Clock::duration to_duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

void disarm(asio::steady_timer& timer) { timer.expires_at(Clock::time_point::max()); }

std::string_view reason_of(int status) {
  switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Payload Too Large";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 529: return "Overloaded";
    default: return "";
  }
}

std::string status_line(int status, bool keep_alive, std::string_view request_id) {
  return fmt::format("HTTP/1.1 {} {}\r\nDate: {:%a, %d %b %Y %H:%M:%S GMT}\r\nConnection: {}\r\nX-Request-Id: {}\r\n",
                     status, reason_of(status), fmt::gmtime(std::time(nullptr)), keep_alive ? "keep-alive" : "close",
                     request_id);
}

// A client that has vanished without a word, behind a router or in a machine that lost its power, is found out within a
// minute: silent connections are probed, and what is sent has to be acknowledged.
void watch_peer(asio::ip::tcp::socket& socket) {
  const auto set = [&](int level, int name, int value) {
    setsockopt(socket.native_handle(), level, name, &value, sizeof value);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 30);   // s of silence before the first probe
  set(IPPROTO_TCP, TCP_KEEPINTVL, 10);  // s between probes
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 60'000);  // ms that sent bytes may stay unacknowledged, or the peer's window shut
}

// What lets a page of an allowed origin read the answer (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).
std::string cors_headers(const HttpRequest& request, const HttpConfig& config) {
  if (!is_allowed_origin(request.origin, config.origins)) return "";
  std::string headers =
      fmt::format("Access-Control-Allow-Origin: {}\r\nAccess-Control-Expose-Headers: X-Request-Id\r\nVary: Origin\r\n",
                  request.origin);
  if (request.method == "OPTIONS")
    headers += "Access-Control-Allow-Methods: GET, POST, DELETE\r\nAccess-Control-Max-Age: 600\r\n";
  if (!request.preflight_headers.empty())
    headers += fmt::format("Access-Control-Allow-Headers: {}\r\n", request.preflight_headers);
  return headers;
}

}  // namespace

Connection::Connection(asio::ip::tcp::socket socket, const HttpConfig& config, Metrics& metrics,
                       ConnectionEvents& events)
    : socket_(std::move(socket)),
      config_(config),
      metrics_(metrics),
      events_(events),
      reader_(config),
      deadline_(socket_.get_executor()),
      write_deadline_(socket_.get_executor()) {}

void Connection::start() {
  error_code ignored;
  asked_.address = socket_.remote_endpoint(ignored).address().to_string();
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  watch_peer(socket_);
  expire_in(deadline_, config_.idle_timeout_s, &Connection::on_deadline);
  read();
}

// `then` runs unless the timer is armed anew or disarmed before.
void Connection::expire_in(asio::steady_timer& timer, double seconds, void (Connection::*then)()) {
  timer.expires_after(to_duration(seconds));
  timer.async_wait([self = shared_from_this(), &timer, then](error_code ec) {
    if (!ec && !self->closed_ && timer.expiry() <= Clock::now()) (self.get()->*then)();
  });
}

// ---- reading

void Connection::read() {
  if (reading_ || closed_ || eof_ || in_.size() >= kMaxReadAhead) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(chunk_), [self = shared_from_this()](error_code ec, size_t size) {
    self->reading_ = false;
    if (self->closed_) return;
    if (ec) return self->on_read_end(ec != asio::error::eof);
    if (!self->closing_) self->in_.append(self->chunk_.data(), size);
    self->advance();
  });
}

void Connection::on_read_end(bool reset) {
  eof_ = true;
  if (reset || lingering_ || on_gone_) return drop();
  advance();
}

// Takes as many requests out of the buffer as can be answered now.
void Connection::advance() {
  if (advancing_) return;
  advancing_ = true;
  while (!closed_ && !closing_ && !busy_ && pending_.size() + out_.size() < kMaxUnwritten && step()) {
  }
  advancing_ = false;
  if (closed_) return;
  if (eof_ && !busy_ && pending_.size() + out_.size() < kMaxUnwritten) closing_ = true;
  if (closing_) in_.clear();
  flush();
  read();
}

// One event of the reader; false when it needs more bytes.
bool Connection::step() {
  const bool had_begun = reader_.begun();
  const RequestReader::State state = reader_.read(in_);
  if (!had_begun && reader_.begun()) {
    request_start_ = Clock::now();
    expire_in(deadline_, config_.header_timeout_s, &Connection::on_deadline);
  }
  switch (state) {
    case RequestReader::State::need_more: return false;
    case RequestReader::State::head: return on_head();
    case RequestReader::State::failed: refuse(reader_.error()); return true;
    case RequestReader::State::done: break;
  }
  HttpRequest request = std::move(reader_.request());
  begin_answer(request.keep_alive);
  reader_.reset();
  events_.on_request(shared_from_this(), *route_, std::move(request));
  return true;
}

bool Connection::on_head() {
  HttpRequest& request = reader_.request();
  head_only_ = request.method == "HEAD";
  http_1_0_ = request.http_1_0;
  cors_ = cors_headers(request, config_);
  asked_.method = request.method;
  asked_.path = request.path;
  asked_.traceparent = request.traceparent;
  asked_.named_by_client = !request.request_id.empty();
  if (request.request_id.empty()) request.request_id = random_id();
  asked_.request_id = request.request_id;
  const auto routed = events_.on_head(request);
  if (const HttpResponse* refusal = std::get_if<HttpResponse>(&routed)) {
    begin_answer(request.keep_alive && !reader_.has_body());  // a body that nobody reads ends the connection
    reader_.reset();
    respond(*refusal);
    return true;
  }
  route_ = std::get<const Route*>(routed);
  if (reader_.expects_continue() && reader_.has_body() && in_.empty()) pending_ += kContinue;
  const auto since_start = std::chrono::duration<double>(Clock::now() - request_start_).count();
  expire_in(deadline_, std::max(0.0, config_.request_timeout_s - since_start), &Connection::on_deadline);
  return true;
}

void Connection::on_deadline() {
  if (!lingering_ && !reader_.begun() && writing_)  // a long answer is still leaving
    return expire_in(deadline_, config_.idle_timeout_s, &Connection::on_deadline);
  if (lingering_ || !reader_.begun()) return drop();
  refuse({408, "the request did not arrive in time", "", ""});
}

void Connection::refuse(const ApiError& error) {
  if (!reader_.has_head()) {
    head_only_ = http_1_0_ = false;
    cors_.clear();
    asked_ = {.address = asked_.address, .request_id = random_id()};
  }
  begin_answer(false);
  respond(error_response(error));
}

// ---- answering

void Connection::begin_answer(bool keep_alive) {
  busy_ = true;
  keep_alive_ = keep_alive && !closing_ && !last_answer_;
  disarm(deadline_);
}

void Connection::name_request(const std::string& id) {
  if (!asked_.named_by_client && is_request_id(id)) asked_.request_id = id;
}

void Connection::respond(const HttpResponse& response) {
  if (closed_) return;
  if (config_.log_requests) log_answer(asked_, response);
  pending_ += status_line(response.status, keep_alive_, asked_.request_id);
  pending_ += cors_;
  const auto out = std::back_inserter(pending_);
  if (response.status != 204)
    fmt::format_to(out, "Content-Type: {}\r\nContent-Length: {}\r\n", response.content_type, response.body.size());
  if (!response.allow.empty()) fmt::format_to(out, "Allow: {}\r\n", response.allow);
  if (!response.cache_control.empty()) fmt::format_to(out, "Cache-Control: {}\r\n", response.cache_control);
  if (!response.content_encoding.empty()) fmt::format_to(out, "Content-Encoding: {}\r\n", response.content_encoding);
  if (!response.security_policy.empty())
    fmt::format_to(out, "Content-Security-Policy: {}\r\nReferrer-Policy: no-referrer\r\n", response.security_policy);
  pending_ += "X-Content-Type-Options: nosniff\r\n";  // no answer is a script but those of the page
  if (response.status == 401) pending_ += "WWW-Authenticate: Bearer\r\n";
  if (response.status == 429) pending_ += "Retry-After: 1\r\n";
  if (response.status == 503 || response.status == 529) pending_ += "Retry-After: 5\r\n";
  pending_ += "\r\n";
  if (!head_only_) pending_ += response.body;
  finish_answer();
}

void Connection::begin_stream() {
  if (closed_) return;
  chunked_ = !http_1_0_;
  if (!chunked_) keep_alive_ = false;
  pending_ += status_line(200, keep_alive_, asked_.request_id);
  pending_ += cors_;
  pending_ += "Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
  if (chunked_) pending_ += "Transfer-Encoding: chunked\r\n";
  pending_ += "\r\n";
  flush();  // the client learns that it was admitted, however long its first token takes
}

void Connection::send(std::string_view events) {
  if (closed_ || events.empty()) return;
  if (writing_ && pending_.size() > config_.max_unread_bytes) {
    ++metrics_.dropped_slow_readers;
    return drop();
  }
  if (chunked_) fmt::format_to(std::back_inserter(pending_), "{:x}\r\n", events.size());
  pending_ += events;
  if (chunked_) pending_ += "\r\n";
  flush();
}

void Connection::end_stream() {
  if (closed_) return;
  if (chunked_) pending_ += "0\r\n\r\n";
  finish_answer();
}

void Connection::finish_answer() {
  busy_ = false;
  on_gone_ = nullptr;
  if (!keep_alive_) closing_ = true;
  if (!closing_) expire_in(deadline_, config_.idle_timeout_s, &Connection::on_deadline);
  advance();
  flush();
}

void Connection::set_on_gone(std::function<void()> on_gone) { on_gone_ = std::move(on_gone); }

// ---- writing

void Connection::flush() {
  if (writing_ || closed_) return;
  if (pending_.empty()) {
    if (closing_ && !busy_) linger();
    return;
  }
  writing_ = true;
  out_.swap(pending_);
  expire_in(write_deadline_, config_.write_timeout_s + static_cast<double>(out_.size()) / kSlowestBytesPerSecond,
            &Connection::drop);
  asio::async_write(socket_, asio::buffer(out_), [self = shared_from_this()](error_code ec, size_t) {
    self->writing_ = false;
    self->out_.clear();
    disarm(self->write_deadline_);
    if (self->closed_) return;
    if (ec) return self->drop();
    self->flush();
    self->advance();
  });
}

// Closing with unread bytes in the kernel would reset the connection and could take the answer with it: say that
// nothing more comes, and read until the client has closed too.
void Connection::linger() {
  if (lingering_) return;
  lingering_ = true;
  if (eof_) return drop();
  error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  expire_in(deadline_, kLingerSeconds, &Connection::on_deadline);
  read();
}

void Connection::close_when_done() {
  keep_alive_ = false;
  closing_ = true;
  const bool idle = !busy_ && !writing_ && pending_.empty() && !reader_.begun();
  if (idle) return drop();
  if (!busy_) flush();
}

void Connection::drop() {
  if (closed_) return;
  closed_ = true;
  disarm(deadline_);
  disarm(write_deadline_);
  error_code ignored;
  socket_.close(ignored);
  if (const auto on_gone = std::exchange(on_gone_, nullptr)) on_gone();
  events_.on_closed(*this);
}

}  // namespace kt
