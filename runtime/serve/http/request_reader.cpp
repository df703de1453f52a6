#include "runtime/serve/http/request_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/beast/http.hpp>

#include "runtime/serve/http/request_log.h"

namespace kt {
namespace {

namespace http = boost::beast::http;

std::string text(boost::beast::string_view view) { return {view.data(), view.size()}; }

// The number of header lines, or -1 when one is folded (begins with a blank), which RFC 9112 lets a server refuse.
int count_lines(std::string_view head) {
  int lines = 0;
  for (size_t end = head.find("\r\n"); end + 2 < head.size(); end = head.find("\r\n", end + 2)) {
    if (head[end + 2] == ' ' || head[end + 2] == '\t') return -1;
    ++lines;
  }
  return lines;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// %xx is a byte; a '%' that begins no such pair stays.
std::string url_decoded(std::string_view text) {
  std::string bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool pair =
        text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0;
    bytes += pair ? static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2])) : text[i];
    if (pair) i += 2;
  }
  return bytes;
}

std::string path_of(std::string_view target) { return url_decoded(target.substr(0, target.find_first_of("?#"))); }

// "?limit=3&order=asc"; of equal names the last counts.
std::map<std::string, std::string> query_of(std::string_view target) {
  target = target.substr(0, target.find('#'));
  std::map<std::string, std::string> query;
  for (size_t at = target.find('?'); at < target.size();) {
    const size_t end = std::min(target.find('&', at + 1), target.size());
    const std::string_view member = target.substr(at + 1, end - at - 1);
    const size_t equals = std::min(member.find('='), member.size());
    if (!member.empty())
      query[url_decoded(member.substr(0, equals))] = url_decoded(member.substr(std::min(equals + 1, member.size())));
    at = end;
  }
  return query;
}

}  // namespace

bool is_request_id(std::string_view text) {
  constexpr size_t kMostBytes = 256;
  return !text.empty() && text.size() <= kMostBytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

struct RequestReader::Parser : http::request_parser<http::string_body> {};

RequestReader::RequestReader(const HttpConfig& limits) : limits_(limits) { reset(); }
RequestReader::~RequestReader() = default;

void RequestReader::reset() {
  parser_ = std::make_unique<Parser>();
  parser_->header_limit(static_cast<uint32_t>(limits_.max_header_bytes));
  parser_->body_limit(limits_.max_body_bytes);
  request_ = {};
  begun_ = has_head_ = body_begun_ = expects_continue_ = false;
}

bool RequestReader::begun() const { return begun_; }
bool RequestReader::has_head() const { return has_head_; }
bool RequestReader::expects_continue() const { return expects_continue_; }
bool RequestReader::has_body() const { return has_head_ && !parser_->is_done(); }
HttpRequest& RequestReader::request() { return request_; }
const ApiError& RequestReader::error() const { return error_; }

RequestReader::State RequestReader::fail(int status, std::string message) {
  error_ = {status, std::move(message), "", ""};
  return State::failed;
}

RequestReader::State RequestReader::read(std::string& bytes) { return has_head_ ? read_body(bytes) : read_head(bytes); }

RequestReader::State RequestReader::read_head(std::string& bytes) {
  while (!begun_ && bytes.starts_with("\r\n")) bytes.erase(0, 2);  // some clients end a body with a line end too much
  if (bytes.empty() || (!begun_ && bytes == "\r")) return State::need_more;
  begun_ = true;

  const size_t end = bytes.find("\r\n\r\n");
  const size_t size = end == bytes.npos ? bytes.size() : end + 4;
  if (size > limits_.max_header_bytes)
    return fail(431, fmt::format("the request's header is longer than {} bytes", limits_.max_header_bytes));
  if (end == bytes.npos) return State::need_more;

  const int lines = count_lines(std::string_view(bytes).substr(0, size - 2));
  if (lines < 0) return fail(400, "folded header lines are refused");
  if (lines > static_cast<int>(limits_.max_header_fields))
    return fail(431, fmt::format("the request has more than {} header fields", limits_.max_header_fields));

  boost::system::error_code ec;
  parser_->put(boost::asio::buffer(bytes.data(), size), ec);
  if (ec == http::error::body_limit)
    return fail(413, fmt::format("the body is longer than {} bytes", limits_.max_body_bytes));
  if (ec || !parser_->is_header_done()) return fail(400, fmt::format("not a valid HTTP request: {}", ec.message()));
  bytes.erase(0, size);

  const auto& fields = parser_->get();
  const auto field = [&](auto name) { return text(fields[name]); };
  if (fields.version() == 11 && fields.count(http::field::host) != 1)
    return fail(400, "a request needs exactly one Host header");
  if (field(http::field::content_length).find_first_not_of("0123456789") != std::string::npos)
    return fail(400, "Content-Length is not one number");
  const std::string encoding = field(http::field::transfer_encoding);
  if (fields.count(http::field::transfer_encoding) > 0 &&
      (!boost::beast::iequals(encoding, "chunked") || fields.version() == 10))
    return fail(400, "the only Transfer-Encoding of a request that is understood is chunked");

  request_.method = text(fields.method_string());
  request_.path = path_of(text(fields.target()));
  request_.query = query_of(text(fields.target()));
  request_.host = field(http::field::host);
  request_.origin = field(http::field::origin);
  request_.cross_site = field("sec-fetch-site") == "cross-site";
  request_.preflight_headers = field(http::field::access_control_request_headers);
  request_.content_type = field(http::field::content_type);
  request_.authorization = field(http::field::authorization);
  request_.api_key_header = field("x-api-key");
  request_.timeout_header = field("x-request-timeout");
  if (const std::string id = field("x-request-id"); is_request_id(id)) request_.request_id = id;
  if (const std::string trace = field("traceparent"); fields.count("traceparent") == 1 && is_traceparent(trace))
    request_.traceparent = trace;
  request_.keep_alive = fields.keep_alive();
  request_.http_1_0 = fields.version() == 10;
  expects_continue_ = boost::beast::iequals(fields[http::field::expect], "100-continue");
  has_head_ = true;
  return State::head;
}

RequestReader::State RequestReader::read_body(std::string& bytes) {
  // Beast asserts that it is not shown the head of an empty chunked body again without what follows.
  constexpr std::string_view kEmpty = "0\r\n\r\n";
  const bool empty = parser_->chunked() && !body_begun_ && bytes.starts_with(kEmpty.substr(0, 3));
  if (empty && bytes.size() < kEmpty.size()) return State::need_more;
  parser_->eager(true);
  while (!parser_->is_done() && !bytes.empty()) {
    boost::system::error_code ec;
    const size_t used = parser_->put(boost::asio::buffer(bytes), ec);
    bytes.erase(0, used);
    body_begun_ |= used > 0;
    if (ec == http::error::need_more)
      return limits_.max_header_bytes < bytes.size() ? fail(400, "a chunk header is too long") : State::need_more;
    if (ec == http::error::body_limit)
      return fail(413, fmt::format("the body is longer than {} bytes", limits_.max_body_bytes));
    if (ec) return fail(400, fmt::format("not a valid HTTP body: {}", ec.message()));
  }
  if (!parser_->is_done()) return State::need_more;
  request_.body = std::move(parser_->get().body());
  return State::done;
}

}  // namespace kt
