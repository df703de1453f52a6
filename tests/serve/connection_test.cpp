// One connection without a server behind it: what it asks of one, and what it hands on.
#include "runtime/serve/http/connection.h"

#include <gmock/gmock.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <thread>

#include "runtime/serve/http/routes.h"
#include "tests/serve/client.h"

namespace kt {
namespace {

using testing::ElementsAre;

// "/a" and "/b" have routes, all else is refused. Answers with the path that the request came with.
struct TwoRoutes : ConnectionEvents {
  std::variant<const Route*, HttpResponse> on_head(const HttpRequest& request) override {
    heads.push_back(request.path);
    if (request.path == a.path) return &a;
    if (request.path == b.path) return &b;
    return HttpResponse{.status = 404};
  }
  void on_request(std::shared_ptr<Connection> connection, const Route& route, HttpRequest request) override {
    requests.emplace_back(&route, request.path + " " + request.body);
    connection->respond({.body = request.path});
  }
  void on_closed(Connection&) override {}

  const Route a{.path = "/a"}, b{.path = "/b"};
  std::vector<std::string> heads;
  std::vector<std::pair<const Route*, std::string>> requests;
};

TEST(Connection, EachRequestIsRoutedOnceAndKeepsItsRoute) {
  namespace asio = boost::asio;
  asio::io_context io;
  const HttpConfig config;
  Metrics metrics;
  TwoRoutes events;
  asio::ip::tcp::acceptor acceptor(io, {asio::ip::address_v4::loopback(), 0});
  Client client(acceptor.local_endpoint().port());
  std::make_shared<Connection>(acceptor.accept(), config, metrics, events)->start();
  std::thread thread([&] { io.run(); });

  client.send(post("/a", "one") + get("/nowhere") + post("/b", "two") + get("/a"));
  for (const int status : {200, 404, 200, 200}) EXPECT_EQ(status_of(client.read_response()), status);
  const std::string in_pieces = post("/b", "three");
  client.send(in_pieces.substr(0, in_pieces.size() - 2));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  client.send(in_pieces.substr(in_pieces.size() - 2));
  EXPECT_EQ(status_of(client.read_response()), 200);
  client.hang_up();
  thread.join();

  EXPECT_THAT(events.heads, ElementsAre("/a", "/nowhere", "/b", "/a", "/b"));
  using Entry = std::pair<const Route*, std::string>;
  EXPECT_THAT(events.requests, ElementsAre(Entry(&events.a, "/a one"), Entry(&events.b, "/b two"),
                                           Entry(&events.a, "/a "), Entry(&events.b, "/b three")));
}

}  // namespace
}  // namespace kt
