// Two servers on the same sockets, of which one at a time takes connections.
#include <gtest/gtest.h>
#include <unistd.h>

#include "runtime/serve/http/http.h"

#include "tests/serve/running_server.h"

namespace kt {
namespace {

std::vector<int> copies(const std::vector<int>& sockets) {
  std::vector<int> result;
  for (const int socket : sockets) result.push_back(dup(socket));
  return result;
}

// What a supervisor has while a rank 0 has its port: a server that is paused, and one that answers.
struct Pair {
  explicit Pair(HttpConfig config = on_any_port()) : standby(config), server(config, copies(standby.sockets())) {
    standby.pause();
    server.serve(engine, fake_model());
  }
  ~Pair() {
    engine.finish();
    server.stop();
  }
  int status() const {
    Client client(standby.port());
    client.send(get("/health"));
    return status_of(client.read_response());
  }

  HttpServer standby, server;
  FakeEngine engine{FakeEngine::Options()};
};

TEST(Handover, TheOtherServerAnswersWhileTheFirstIsPaused) {
  Pair pair;
  EXPECT_EQ(pair.server.port(), pair.standby.port());
  EXPECT_TRUE(wait_for([&] { return pair.status() == 200; })) << "the pause has come";
  for (int i = 0; i < 50; ++i) EXPECT_EQ(pair.status(), 200);

  pair.standby.resume();
  pair.server.stop();

  for (int i = 0; i < 50; ++i) EXPECT_EQ(pair.status(), 503);
}

TEST(Handover, ConnectionsOfAPauseWaitForWhoeverComes) {
  HttpServer standby(on_any_port());
  standby.pause();
  Client first(standby.port());
  first.send(get("/health"));
  EXPECT_EQ(first.read_until("\r\n\r\n", 0.2), "");

  standby.resume();
  EXPECT_EQ(status_of(first.read_response()), 503);
}

TEST(Handover, AConnectionFromBeforeThePauseGetsItsAnswerAndEnds) {
  HttpServer standby(on_any_port());
  Client fresh(standby.port()), used(standby.port());
  used.send(get("/health"));
  EXPECT_NE(used.read_response().find("Connection: keep-alive"), std::string::npos);

  standby.pause();
  for (Client* client : {&fresh, &used}) {
    client->send(post("/v1/messages", "{}"));
    const std::string answer = client->read_until("");
    EXPECT_EQ(status_of(answer), 529) << "Anthropic's own word for it";
    EXPECT_NE(answer.find("Retry-After: "), answer.npos);
    EXPECT_NE(answer.find("Connection: close"), answer.npos);
    EXPECT_NE(answer.find("\"type\":\"error\""), answer.npos) << answer;
    EXPECT_TRUE(client->closed());
  }
}

TEST(Handover, PausesAndResumesMayFollowEachOtherAtOnce) {
  HttpServer standby(on_any_port());
  for (int i = 0; i < 100; ++i) {
    standby.pause();
    standby.resume();
  }
  Client client(standby.port());
  client.send(get("/health") + get("/health"));
  EXPECT_EQ(status_of(client.read_response()), 503);

  for (int i = 0; i < 100; ++i) {
    standby.resume();
    standby.pause();
  }
  standby.stop();
}

TEST(Handover, LocalhostsTwoSocketsAreHandedOn) {
  HttpConfig config = on_any_port();
  config.host = "localhost";
  Pair pair(config);
  EXPECT_EQ(pair.server.sockets().size(), pair.standby.sockets().size());
  EXPECT_TRUE(wait_for([&] { return pair.status() == 200; }));
}

}  // namespace
}  // namespace kt
