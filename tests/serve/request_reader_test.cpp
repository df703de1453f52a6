#include "runtime/serve/http/request_reader.h"

#include <gtest/gtest.h>

namespace kt {
namespace {

using State = RequestReader::State;

// The state after `bytes`, `head` being passed over.
State read_all(RequestReader& reader, std::string& bytes) {
  State state = reader.read(bytes);
  if (state == State::head) state = reader.read(bytes);
  return state;
}

// 200, 0 for a request that is not complete, or the error. Byte by byte it must come to the same.
int status_of(const std::string& bytes, const HttpConfig& limits = {}) {
  RequestReader whole(limits), pieces(limits);
  std::string all = bytes, buffer;
  const State state = read_all(whole, all);
  State in_pieces = State::need_more;
  for (size_t i = 0; i < bytes.size() && in_pieces == State::need_more; ++i) {
    buffer += bytes[i];
    in_pieces = read_all(pieces, buffer);
  }
  EXPECT_EQ(state, in_pieces) << bytes.substr(0, 200);
  if (state == State::need_more) return 0;
  return state == State::done ? 200 : whole.error().status;
}

TEST(RequestReader, TakesOneRequestAndLeavesTheNext) {
  const HttpConfig limits;
  RequestReader reader(limits);
  std::string bytes =
      "\r\nPOST /a%20b%zz?q=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nAuthorization: Bearer k\r\n\r\nhiGET / "
      "HTTP/1.1\r\n";
  EXPECT_EQ(reader.read(bytes), State::head);
  EXPECT_TRUE(reader.has_body());
  EXPECT_EQ(reader.read(bytes), State::done);
  EXPECT_EQ(reader.request().method, "POST");
  EXPECT_EQ(reader.request().path, "/a b%zz");
  EXPECT_EQ(reader.request().authorization, "Bearer k");
  EXPECT_EQ(reader.request().body, "hi");
  EXPECT_EQ(bytes, "GET / HTTP/1.1\r\n");
}

TEST(RequestReader, JoinsChunksAndSeesExpect) {
  const HttpConfig limits;
  RequestReader reader(limits);
  std::string bytes = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n";
  EXPECT_EQ(reader.read(bytes), State::head);
  EXPECT_TRUE(reader.expects_continue());
  bytes = "3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: z\r\n\r\n";
  EXPECT_EQ(reader.read(bytes), State::done);
  EXPECT_EQ(reader.request().body, "abcde");
}

TEST(RequestReader, RefusesWhatTwoServersCouldReadInTwoWays) {
  const std::string post = "POST / HTTP/1.1\r\nHost: h\r\n";
  EXPECT_EQ(status_of(post + "Content-Length: 1\r\n\r\na"), 200);
  EXPECT_EQ(status_of(post + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(status_of(post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\na"), 400);
  EXPECT_EQ(status_of(post + "Content-Length: 1, 2\r\n\r\na"), 400);
  EXPECT_EQ(status_of(post + "Content-Length: -1\r\n\r\n"), 400);
  EXPECT_EQ(status_of(post + "Content-Length: +1\r\n\r\na"), 400);
  EXPECT_EQ(status_of(post + "Content-Length: 0x1\r\n\r\na"), 400);
  EXPECT_EQ(status_of(post + "Content-Length: 99999999999999999999999\r\n\r\n"), 400);
  EXPECT_EQ(status_of(post + "Content-Length : 1\r\n\r\na"), 400);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: gzip\r\n\r\n"), 400);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked, identity\r\n\r\n"), 400);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(status_of(post + "X: a\r\n b\r\n\r\n"), 400);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\n\r\n-2\r\nab\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nab\r\n"), 400);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(status_of("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
  EXPECT_EQ(status_of(std::string("\x16\x03\x01\x02\x00\x01\r\n\r\n", 10)), 400);
}

TEST(RequestReader, HoldsItsLimits) {
  HttpConfig limits;
  limits.max_body_bytes = 10;
  const std::string post = "POST / HTTP/1.1\r\nHost: h\r\n";
  EXPECT_EQ(status_of(post + "Content-Length: 10\r\n\r\n0123456789", limits), 200);
  EXPECT_EQ(status_of(post + "Content-Length: 11\r\n\r\n", limits), 413);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n", limits), 413);
  EXPECT_EQ(status_of(post + "X: " + std::string(20000, 'x') + "\r\n\r\n"), 431);
  EXPECT_EQ(status_of(post + std::string(20000, 'x')), 431);
  std::string many = post;
  for (int i = 0; i < 100; ++i) many += "a: b\r\n";
  EXPECT_EQ(status_of(many + "\r\n"), 431);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\n\r\n1;" + std::string(20000, 'x'), {}), 400);
}

}  // namespace
}  // namespace kt
