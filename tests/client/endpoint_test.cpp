#include "runtime/client/endpoint.h"

#include <gtest/gtest.h>

#include "runtime/base/error.h"

namespace kt {
namespace {

std::string shown(const char* url) {
  const Endpoint endpoint = parse_url(url);
  return endpoint.host + " " + endpoint.port + " " + endpoint.path;
}

TEST(Endpoint, ReadsUrlsWithAndWithoutScheme) {
  EXPECT_EQ(shown("http://127.0.0.1:30000"), "127.0.0.1 30000 ");
  EXPECT_EQ(shown("node1:8"), "node1 8 ");
  EXPECT_EQ(shown("http://h"), "h 80 ");
  EXPECT_EQ(shown("http://[::1]:80/"), "::1 80 ");
  EXPECT_EQ(shown("http://[fe80::1]"), "fe80::1 80 ");
  EXPECT_EQ(shown("http://h:1/a/b/"), "h 1 /a/b");
  EXPECT_EQ(shown("http://h:1/v1/"), "h 1 ");
  EXPECT_EQ(shown("http://h:1/a/v1"), "h 1 /a");
}

TEST(Endpoint, RefusesWhatIsNoUrlOfAServer) {
  for (const char* url : {"", "http://", "https://h", "http://:1", "http://h:", "http://h:a", "http://h:70000",
                          "http://[::1", "http://[::1]x", "http://a:b:1", "http://u@h", "http://h/?q", "http://h h"})
    EXPECT_THROW(parse_url(url), Error) << url;
  EXPECT_THROW(parse_url("http://h", "a\r\nX: y"), Error);
}

}  // namespace
}  // namespace kt
