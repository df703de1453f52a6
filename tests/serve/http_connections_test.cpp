// Where the server listens, and clients that are slow, many, old or gone.
#include "runtime/serve/http/http.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "runtime/base/error.h"
#include "runtime/serve/http/listen.h"
#include "runtime/serve/http/origin.h"

#include "tests/serve/running_server.h"

namespace kt {
namespace {

namespace asio = boost::asio;
using Clock = std::chrono::steady_clock;

TEST(Http, ATakenPortIsAnErrorAtOnce) {
  HttpServer first(on_any_port());
  HttpConfig config;
  config.port = first.port();
  try {
    HttpServer second(config);
    FAIL() << "listens twice";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), kExitPort);
    EXPECT_NE(std::string(error.what()).find(std::to_string(config.port)), std::string::npos);
  }
}

TEST(Http, AnswersPipelinedRequestsInOrder) {
  const Running running;
  Client client = running.connect();
  client.send(get("/health") + post("/generate", R"({"text": "abc"})") + get("/version") +
              post("/generate", R"({"text": "de"})"));
  EXPECT_EQ(body_of(client.read_response())["status"], "ok");
  EXPECT_EQ(body_of(client.read_response())["text"], "abc");
  EXPECT_EQ(body_of(client.read_response())["version"], "9.8.7");
  EXPECT_EQ(body_of(client.read_response())["text"], "de");
}

TEST(Http, AnswersAllThatWasSentBeforeAHalfClose) {
  const Running running;
  Client client = running.connect();
  client.send(get("/health") + get("/version") + get("/"));
  client.send_no_more();
  const std::string all = client.read_until("");
  EXPECT_NE(all.find("<title>ktmpi</title>"), all.npos);
  EXPECT_TRUE(client.closed());
}

TEST(Http, TakesChunkedBodiesAndSaysContinue) {
  const Running running;
  Client client = running.connect();
  client.send(
      "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json; charset=utf-8\r\nExpect: "
      "100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.send("8\r\n{\"text\":\r\n6\r\n \"abc\"\r\n1\r\n}\r\n0\r\n\r\n");
  EXPECT_EQ(body_of(client.read_response())["text"], "abc");
}

TEST(Http, ADisconnectAbortsWithin100ms) {
  const Running running(on_any_port(), {.hold = true});
  const std::string three = R"({"messages": [{"role": "user", "content": "x"}], "n": 3})";
  for (const auto& [body, choices] : {std::pair(kChat, 1), std::pair(kChatStream, 1), std::pair(three, 3)}) {
    double best = 10;  // of five tries: on a busy machine any of them may have to wait for a core
    for (int i = 0; i < 5 && best >= 0.1; ++i) {
      const int before = running.engine.aborts;
      Client client = running.connect();
      client.send(post("/v1/chat/completions", body));
      ASSERT_TRUE(wait_for([&, n = choices] { return running.engine.stats().running == n; }));

      const auto start = Clock::now();
      client.hang_up();
      ASSERT_TRUE(wait_for([&, n = choices] { return running.engine.aborts == before + n; }));
      best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
      ASSERT_TRUE(wait_for([&] { return running.engine.stats().running == 0; }));
    }
    EXPECT_LT(best, 0.1) << body;
  }
}

bool connects(const char* address, int port) {
  asio::io_context io;
  asio::ip::tcp::socket socket(io);
  boost::system::error_code ec;
  socket.connect({asio::ip::make_address(address), static_cast<uint16_t>(port)}, ec);
  return !ec;
}

bool has_ipv6() {
  asio::io_context io;
  boost::system::error_code ec;
  asio::ip::tcp::acceptor acceptor(io);
  acceptor.open(asio::ip::tcp::v6(), ec);
  if (!ec) acceptor.bind({asio::ip::address_v6::loopback(), 0}, ec);
  return !ec;
}

TEST(Http, LocalhostIsBothOfItsAddresses) {
  HttpConfig config = on_any_port();
  config.host = "localhost";
  const HttpServer server(config);
  EXPECT_EQ(server.url(), fmt::format("http://localhost:{}", server.port()));
  EXPECT_TRUE(connects("127.0.0.1", server.port()));
  if (!has_ipv6()) GTEST_SKIP() << "this machine has no IPv6";
  EXPECT_TRUE(connects("::1", server.port()));
}

TEST(Http, OfAllAddressesItsUrlNamesTheMachine) {
  HttpConfig config = on_any_port();
  config.host = "0.0.0.0";
  const HttpServer server(config);
  EXPECT_EQ(server.url(), fmt::format("http://{}:{}", machine_names().front(), server.port()));
  EXPECT_EQ(server.url().find("0.0.0.0"), std::string::npos);
}

TEST(Http, AllAddressesAreThoseOfBothFamilies) {
  if (!has_ipv6()) GTEST_SKIP() << "this machine has no IPv6";
  HttpConfig config = on_any_port();
  config.host = "::";
  const HttpServer server(config);
  EXPECT_TRUE(connects("127.0.0.1", server.port()));
  EXPECT_TRUE(connects("::1", server.port()));
}

TEST(Http, WhatCannotBeListenedOnSaysWhetherAPortIsTaken) {
  const auto code = [](const std::string& host, int port) {
    HttpConfig config;
    config.host = host;
    config.port = port;
    try {
      HttpServer server(config);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(host), std::string::npos) << error.what();
      return static_cast<int>(error.exit_code());
    }
    return 0;
  };
  HttpConfig taken = on_any_port();
  taken.host = has_ipv6() ? "::1" : "127.0.0.1";
  const HttpServer first(taken);
  EXPECT_EQ(code(taken.host, first.port()), kExitPort);
  EXPECT_EQ(code("localhost", first.port()), kExitPort) << "one of its addresses is taken";
  EXPECT_EQ(code("no such host", 0), kExitUsage);
  EXPECT_EQ(code("/run/ktmpi.sock", 0), kExitUsage);
  EXPECT_EQ(code("192.0.2.1", 0), kExitUsage) << "an address of no machine";
  if (geteuid() == 0) return;  // root may listen on all ports
  EXPECT_EQ(code("127.0.0.1", 1), kExitUsage);
}

// The server's end of a client's connection: both are in this process.
int socket_to(int port_of_client) {
  for (int fd = 0; fd < 1024; ++fd) {
    sockaddr_in peer{};
    socklen_t size = sizeof peer;
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0 && ntohs(peer.sin_port) == port_of_client)
      return fd;
  }
  return -1;
}

TEST(Http, AClientThatHasVanishedIsFoundOut) {
  const Running running;
  Client client = running.connect();
  client.send(get("/health"));
  client.read_response();
  const int fd = socket_to(client.local_port());
  ASSERT_GE(fd, 0);
  const auto option = [&](int level, int name) {
    int value = 0;
    socklen_t size = sizeof value;
    EXPECT_EQ(getsockopt(fd, level, name, &value, &size), 0);
    return value;
  };
  EXPECT_EQ(option(SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_LE(option(IPPROTO_TCP, TCP_KEEPIDLE) + option(IPPROTO_TCP, TCP_KEEPINTVL) * option(IPPROTO_TCP, TCP_KEEPCNT),
            60);
  EXPECT_EQ(option(IPPROTO_TCP, TCP_USER_TIMEOUT), 60000);
}

// All that a stream of /generate has said is in its newest event: the others need not wait for the reader.
TEST(Http, ASlowReaderOfACumulativeStreamGetsFewerEventsAndIsNotDropped) {
  const Running running(on_any_port(), {.step = std::chrono::milliseconds(1), .text_per_step = 16 << 10});
  Client client(running.server.port(), 4096);
  client.send(post("/generate", R"({"text": "a", "stream": true, "sampling_params": {"max_new_tokens": null}})"));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // some 40 MB, sent one by one

  EXPECT_EQ(running.engine.aborts, 0);
  EXPECT_NE(running.ask(get("/metrics")).find("ktmpi_http_slow_readers_dropped_total 0\n"), std::string::npos);
}

TEST(Http, SlowRequestsAreClosedAtADeadline) {
  HttpConfig config = on_any_port();
  config.header_timeout_s = 0.2;
  config.request_timeout_s = 0.4;
  config.idle_timeout_s = 0.3;
  const Running running(config);
  const auto drip = [&](const std::string& start) {  // one byte every 20 ms
    Client client = running.connect();
    client.send(start);
    const auto begin = Clock::now();
    std::string answer;
    while (answer.empty() && !client.closed() && Clock::now() < begin + std::chrono::seconds(3)) {
      client.send("x");
      answer = client.read_until("\r\n\r\n", 0.02);
    }
    EXPECT_LT(std::chrono::duration<double>(Clock::now() - begin).count(), 1.0);
    return status_of(answer);
  };
  EXPECT_EQ(drip("GET / HTTP/1.1\r\nX: "), 408);
  EXPECT_EQ(drip("POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
                 "1000\r\n\r\n"),
            408);
  Client silent = running.connect();
  EXPECT_EQ(silent.read_until("", 2), "");
  EXPECT_TRUE(silent.closed());
}

TEST(Http, AClientThatDoesNotReadIsDropped) {
  const Running running(on_any_port(), {.step = std::chrono::milliseconds(1), .text_per_step = 64 << 10});
  Client client(running.server.port(), 4096);
  client.send(post("/v1/completions", R"({"prompt": "a", "stream": true, "max_tokens": 100000})"));
  EXPECT_TRUE(wait_for([&] { return running.engine.aborts == 1; }));
  const std::string text = running.ask(get("/metrics"));
  EXPECT_NE(text.find("ktmpi_http_slow_readers_dropped_total 1\n"), text.npos);
}

TEST(Http, AFloodOfPipelinedRequestsWaitsForItsReader) {
  const Running running;
  Client client(running.server.port(), 4096);
  std::thread writer([&] {
    const std::string batch = [] {
      std::string all;
      for (int i = 0; i < 100; ++i) all += get("/version");
      return all;
    }();
    for (int i = 0; i < 200; ++i) client.send(batch);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(status_of(running.ask(get("/health"))), 200);
  int answers = 0;
  while (answers < 20000 && client.read_until("{\"version\":\"9.8.7\"}", 5).ends_with('}')) ++answers;
  writer.join();
  EXPECT_EQ(answers, 20000);
}

TEST(Http, MoreConnectionsThanAllowedAreTurnedAway) {
  HttpConfig config = on_any_port();
  config.max_connections = 2;
  const Running running(config);
  Client first = running.connect(), second = running.connect();
  first.send(get("/health"));
  second.send(get("/health"));
  first.read_response();
  second.read_response();
  Client third = running.connect();
  EXPECT_EQ(status_of(third.read_until("")), 503);
}

TEST(Http, OneAddressCannotTakeAllConnections) {
  HttpConfig config = on_any_port();
  config.max_connections_of_one = 1;
  const Running running(config);
  for (int i = 0; i < 3; ++i) {  // each place is free again once its client has gone
    std::unique_ptr<Client> only;
    ASSERT_TRUE(wait_for([&] {
      only.reset();
      only = std::make_unique<Client>(running.connect());
      only->send(get("/health"));
      return status_of(only->read_response()) == 200;
    }));
    Client second = running.connect();
    EXPECT_EQ(status_of(second.read_until("")), 503);
  }
}

TEST(Http, ServesTwoHundredStreamsOfWhichHalfHangUp) {
  const Running running(on_any_port(), {.step = std::chrono::milliseconds(5)});
  const std::string body = R"({"prompt": ")" + std::string(60, 'y') + R"(", "max_tokens": 60, "stream": true})";
  std::vector<Client> clients;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(running.connect());
    clients.back().send(post("/v1/completions", body));
  }
  for (Client& client : clients) ASSERT_TRUE(client.read_until("\"text\":\"y\"", 10).ends_with("\"y\""));
  for (size_t i = 0; i < clients.size(); i += 2) clients[i].hang_up();
  int complete = 0;
  for (size_t i = 1; i < clients.size(); i += 2)
    complete += clients[i].read_until("[DONE]\n\n", 20).ends_with("[DONE]\n\n");

  EXPECT_EQ(complete, 100);
  EXPECT_TRUE(wait_for([&] { return running.engine.stats().running == 0; }));
  EXPECT_GT(running.engine.aborts, 0);
  EXPECT_EQ(status_of(running.ask(post("/v1/chat/completions", kChat))), 200);
}

TEST(Http, OldClientsGetTheirStreamWithoutChunks) {
  const Running running;
  Client client = running.connect();
  const std::string body = R"({"prompt": "ab", "stream": true})";
  client.send("POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n" + body);
  const std::string all = client.read_until("");
  EXPECT_EQ(all.find("Transfer-Encoding"), all.npos);
  EXPECT_TRUE(all.ends_with("data: [DONE]\n\n"));
}

TEST(Http, AnswersLeaveBeforeTheServerStops) {
  auto running = std::make_unique<Running>();
  Client client = running->connect();
  client.send(post("/generate", R"({"text": "abc"})"));
  ASSERT_TRUE(wait_for([&] { return !running->engine.seen().empty(); }));
  running.reset();  // the engine ends what it has, then the server stops
  const int status = status_of(client.read_until(""));
  EXPECT_TRUE(status == 200 || status == 503) << status;
}

}  // namespace
}  // namespace kt
