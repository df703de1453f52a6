// Who may ask for what: keys, hosts, origins, rights.
#include "runtime/serve/http/http.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <regex>

#include "runtime/serve/http/listen.h"
#include "runtime/serve/http/origin.h"
#include "runtime/serve/http/page.h"

#include "tests/serve/running_server.h"

namespace kt {
namespace {

namespace asio = boost::asio;

TEST(Http, KeysOpenWhatTheyAreFor) {
  HttpConfig config = on_any_port();
  config.api_keys = {"old-key", "user-key"};
  config.admin_api_key = "admin-key";
  const Running running(config);
  const std::string user = "Authorization: bearer user-key\r\n", admin = "X-Api-Key: admin-key\r\n";
  EXPECT_EQ(status_of(running.ask(get("/health"))), 200);
  EXPECT_EQ(status_of(running.ask(get("/metrics"))), 200);
  EXPECT_EQ(status_of(running.ask("OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")), 204);
  for (const char* path : {"/v1/models", "/version", "/get_server_info", "/get_model_info", "/nowhere"}) {
    EXPECT_EQ(status_of(running.ask(get(path))), 401) << path;
    EXPECT_EQ(status_of(running.ask(get(path, "Authorization: Bearer user-ke\r\n"))), 401) << path;
    EXPECT_EQ(status_of(running.ask(get(path, "Authorization: Bearer user-keyuser-key\r\n"))), 401) << path;
    EXPECT_NE(status_of(running.ask(get(path, user))), 401) << path;
    EXPECT_NE(status_of(running.ask(get(path, admin))), 401) << path;
  }
  EXPECT_EQ(status_of(running.ask(get("/flush_cache", user))), 401);
  EXPECT_EQ(status_of(running.ask(get("/flush_cache", admin))), 200);
}

TEST(Http, ThePageAsksNobodyButThisServer) {
  const Running running;
  const std::string page = running.ask(get("/"));
  ASSERT_EQ(status_of(page), 200);
  EXPECT_NE(page.find("Content-Type: text/html; charset=utf-8\r\n"), page.npos);
  EXPECT_NE(page.find("Cache-Control: no-cache\r\n"), page.npos);
  const size_t at = page.find("Content-Security-Policy: ");
  ASSERT_NE(at, page.npos);
  const std::string policy = page.substr(at, page.find("\r\n", at) - at);
  for (const char* part : {"default-src 'none';", "script-src 'self';", "style-src 'self';", "connect-src 'self';",
                           "frame-ancestors 'none'", "require-trusted-types-for 'script'"})
    EXPECT_NE(policy.find(part), policy.npos) << part;
  EXPECT_EQ(policy.find("unsafe"), policy.npos);
  const std::string body = page.substr(page.find("\r\n\r\n"));
  for (const char* outside : {"http://", "https://", "//cdn", "VERSION", " onclick=", " style=", "<style", "<script>"})
    EXPECT_EQ(body.find(outside), body.npos) << outside;
}

TEST(Http, WhatThePageLoadsIsThereAndMayBeKept) {
  HttpConfig config = on_any_port();
  config.api_keys = {"key"};
  const Running running(config);
  const std::string page = running.ask(get("/"));
  const std::regex loaded("(?:href|src)=\"(page/[^\"]+)\"");
  size_t count = 0;
  for (std::sregex_iterator it(page.begin(), page.end(), loaded), end; it != end; ++it, ++count) {
    const std::string path = "/" + (*it)[1].str(), answer = running.ask(get(path));
    EXPECT_EQ(status_of(answer), 200) << path;
    EXPECT_NE(answer.find(path.ends_with(".css") ? "Content-Type: text/css" : "Content-Type: text/javascript"),
              answer.npos)
        << path;
    for (const char* header : {"Cache-Control: public, max-age=31536000, immutable\r\n",
                               "X-Content-Type-Options: nosniff\r\n", "Content-Encoding: gzip\r\n"})
      EXPECT_NE(answer.find(header), answer.npos) << path << ": " << header;
  }
  EXPECT_EQ(count, 9u);
  EXPECT_EQ(
      std::count_if(page_files().begin(), page_files().end(),
                    [](const PageFile& f) { return f.name.ends_with(".woff2") && f.content_type == "font/woff2"; }),
      20);
  for (const char* absent : {"/page/page.css", "/page/0123456789abcdef/page.css", "/page/../page.css"})
    EXPECT_EQ(status_of(running.ask(get(absent))), 404) << absent;
}

TEST(Http, OnlyServersOpenToTheNetworkHaveAnyName) {
  const std::vector<std::string> others = {"chat.example"};
  const OwnNames local{"127.0.0.1", {}}, proxied{"127.0.0.1", others}, open{"0.0.0.0", {}};
  EXPECT_TRUE(is_own_host("127.0.0.1:30000", local));
  EXPECT_TRUE(is_own_host("[::1]:30000", OwnNames{"::1", {}}));
  EXPECT_TRUE(is_own_host("LocalHost", local));
  EXPECT_FALSE(is_own_host("rebound.example:30000", local));
  EXPECT_FALSE(is_own_host("localhost.example", local));
  EXPECT_TRUE(is_own_host("Chat.example", proxied));
  EXPECT_FALSE(is_own_host("evil.chat.example", proxied));
  EXPECT_TRUE(is_own_host("node17.cluster:30000", open));
  EXPECT_TRUE(is_same_origin("https://chat.example", "chat.example", proxied));
  EXPECT_FALSE(is_same_origin("https://evil.example", "chat.example", proxied));
  EXPECT_FALSE(is_same_origin("http://rebound.example", "rebound.example", open));
  EXPECT_TRUE(is_same_origin("http://rebound.example", "rebound.example", OwnNames{"0.0.0.0", {}, /*keys=*/true}))
      << "its page has no key";
  EXPECT_FALSE(is_same_origin("http://rebound.example", "rebound.example", OwnNames{"127.0.0.1", {}, /*keys=*/true}));
}

TEST(Http, ThePageOfAServerThatIsOpenToTheNetworkWorksByTheMachinesName) {
  std::array<char, 256> name{};
  ASSERT_EQ(gethostname(name.data(), name.size() - 1), 0);
  const std::vector<std::string> names = machine_names();
  ASSERT_FALSE(names.empty());
  HttpConfig config = on_any_port();
  config.host = "0.0.0.0";
  const Running running(config);
  const auto ask_as = [&](const std::string& host) {
    return status_of(
        running.ask(fmt::format("GET /v1/models HTTP/1.1\r\nHost: {0}:1\r\nOrigin: http://{0}:1\r\n\r\n", host)));
  };
  EXPECT_EQ(ask_as(name.data()), 200);
  for (const std::string& own : names) EXPECT_EQ(ask_as(own), 200) << own;
  EXPECT_EQ(ask_as("rebound.example"), 403);
}

TEST(Http, NoPageOfAnotherOriginIsLetIn) {
  const Running running;
  const std::string preflight = running.ask(
      "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
      "Access-Control-Request-Method: POST\r\n\r\n");
  EXPECT_EQ(status_of(preflight), 403);
  EXPECT_EQ(preflight.find("Access-Control-Allow"), preflight.npos);
  EXPECT_EQ(running.ask(get("/v1/models")).find("Access-Control-Allow"), std::string::npos);
}

TEST(Http, NoImageOfAnotherSiteIsARequest) {
  const Running running;
  const std::string by_image = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n";
  for (const char* path : {"/flush_cache", "/start_expert_distribution_record", "/v1/models", "/nowhere"}) {
    const std::string answer = running.ask(get(path, by_image));
    EXPECT_EQ(status_of(answer), 403) << path;
    EXPECT_EQ(body_of(answer)["error"]["code"], "origin_refused") << path;
  }
  EXPECT_EQ(status_of(running.ask(get("/", by_image))), 200) << "a link to the page";
  EXPECT_EQ(status_of(running.ask(get("/flush_cache", "Sec-Fetch-Site: same-origin\r\n"))), 200);
}

TEST(Http, PagesOfAllowedOriginsAreLetIn) {
  HttpConfig config = on_any_port();
  config.origins = {"https://chat.example"};
  const Running running(config);
  const std::string from_page = "Host: localhost\r\nOrigin: https://Chat.example\r\n";
  const std::string preflight = running.ask("OPTIONS /v1/chat/completions HTTP/1.1\r\n" + from_page +
                                            "Access-Control-Request-Method: POST\r\n"
                                            "Access-Control-Request-Headers: authorization,content-type\r\n\r\n");
  EXPECT_EQ(status_of(preflight), 204);
  for (const char* header : {"Access-Control-Allow-Origin: https://Chat.example\r\n", "Vary: Origin\r\n",
                             "Access-Control-Allow-Methods: GET, POST, DELETE\r\n",
                             "Access-Control-Allow-Headers: authorization,content-type\r\n"})
    EXPECT_NE(preflight.find(header), preflight.npos) << header;
  const std::string models = running.ask("GET /v1/models HTTP/1.1\r\n" + from_page + "\r\n");
  EXPECT_EQ(status_of(models), 200);
  EXPECT_NE(models.find("Access-Control-Allow-Origin: https://Chat.example\r\n"), models.npos);
  const std::string missing = running.ask("GET /nothing HTTP/1.1\r\n" + from_page + "\r\n");
  EXPECT_EQ(status_of(missing), 404);
  EXPECT_NE(missing.find("Access-Control-Allow-Origin"), missing.npos);
  const std::string evil = running.ask(get("/v1/models", "Origin: https://evil.chat.example\r\n"));
  EXPECT_EQ(status_of(evil), 403);
  EXPECT_EQ(evil.find("Access-Control"), evil.npos);
  EXPECT_EQ(running.ask(get("/v1/models")).find("Access-Control"), std::string::npos);
}

TEST(Http, AKeyHasALimitOfOpenRequests) {
  HttpConfig config = on_any_port();
  config.api_keys = {"one", "two"};
  config.max_requests_of_key = 2;
  const Running running(config, {.hold = true});
  const auto ask_with = [](const char* key) {
    return post("/v1/chat/completions", kChatStream,
                fmt::format("Content-Type: application/json\r\nAuthorization: Bearer {}\r\n", key));
  };
  Client first = running.connect(), second = running.connect(), other = running.connect();
  first.send(ask_with("one"));
  EXPECT_EQ(status_of(first.read_until("\r\n\r\n")), 200);
  second.send(ask_with("one"));
  EXPECT_EQ(status_of(second.read_until("\r\n\r\n")), 200);

  const std::string refused = running.ask(ask_with("one"));
  EXPECT_EQ(status_of(refused), 429);
  EXPECT_NE(refused.find("Retry-After: "), refused.npos);
  other.send(ask_with("two"));
  EXPECT_EQ(status_of(other.read_until("\r\n\r\n")), 200);
  const std::vector<GenerateRequest> seen = running.engine.seen();
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0].client, seen[1].client);
  EXPECT_NE(seen[0].client, seen[2].client) << "keys take turns";
}

TEST(Http, ToGetAheadOfOthersTakesARight) {
  const std::string json = "Content-Type: application/json\r\n";
  const auto ask_with = [&](int priority, const std::string& key) {
    return post("/v1/completions", fmt::format(R"({{"prompt": "a", "priority": {}}})", priority),
                key.empty() ? json : fmt::format("{}X-Api-Key: {}\r\n", json, key));
  };
  HttpConfig config = on_any_port();
  config.api_keys = {"user"};
  config.admin_api_key = "boss";
  const Running running(config);
  const std::string refused = running.ask(ask_with(1, "user"));
  EXPECT_EQ(status_of(refused), 403);
  EXPECT_EQ(body_of(refused)["error"]["param"], "priority");
  EXPECT_EQ(status_of(running.ask(ask_with(0, "user"))), 200);
  EXPECT_EQ(status_of(running.ask(ask_with(-5, "user"))), 200);
  EXPECT_EQ(status_of(running.ask(ask_with(1, "boss"))), 200);
  EXPECT_EQ(running.engine.seen().back().priority, 1);

  EXPECT_EQ(status_of(Running().ask(ask_with(1, ""))), 403) << "without keys all are equal";
  HttpConfig open = on_any_port();
  open.priority_for_all = true;
  EXPECT_EQ(status_of(Running(open).ask(ask_with(1, ""))), 200);
}

TEST(Http, AKeyThatNobodyChecksMakesNoOtherClient) {
  HttpConfig config = on_any_port();
  config.admin_api_key = "boss";
  const Running running(config);
  for (const char* key : {"a", "b", "boss"})
    EXPECT_EQ(status_of(running.ask(post("/generate", R"({"text": "a"})",
                                         fmt::format("Content-Type: application/json\r\nX-Api-Key: {}\r\n", key)))),
              200);
  const std::vector<GenerateRequest> seen = running.engine.seen();
  EXPECT_EQ(seen.at(0).client, seen.at(1).client);
  EXPECT_EQ(seen[0].client, "address 127.0.0.1");
  EXPECT_NE(seen[0].client, seen.at(2).client);
}

TEST(Http, AClientIsAnAddressOrAWholeIpv6Network) {
  const auto client = [](const char* address) { return client_address(asio::ip::make_address(address)).to_string(); };
  EXPECT_EQ(client("10.1.2.3"), "10.1.2.3");
  EXPECT_EQ(client("::ffff:10.1.2.3"), "10.1.2.3");
  EXPECT_EQ(client("2001:db8:1:2:3::4"), client("2001:db8:1:2:ffff::1"));
  EXPECT_NE(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
}

}  // namespace
}  // namespace kt
