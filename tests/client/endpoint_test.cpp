#include "runtime/client/endpoint.h"

#include <gtest/gtest.h>

#include "runtime/base/error.h"

namespace kt {
namespace {

TEST(Endpoint, ReadsUrlsWithAndWithoutScheme) {
  EXPECT_EQ(parse_url("http://127.0.0.1:30000").url, "http://127.0.0.1:30000");
  EXPECT_EQ(parse_url("node1:8").url, "http://node1:8");
  EXPECT_EQ(parse_url("http://h").url, "http://h");
  EXPECT_EQ(parse_url("https://h/").url, "https://h");
  EXPECT_EQ(parse_url("HTTPS://h:8443/v1").url, "https://h:8443");
  EXPECT_EQ(parse_url("http://[::1]:80/").url, "http://[::1]:80");
  EXPECT_EQ(parse_url("http://[fe80::1]").url, "http://[fe80::1]");
  EXPECT_EQ(parse_url("http://h:1/a/b/").url, "http://h:1/a/b");
  EXPECT_EQ(parse_url("http://h:1/v1/").url, "http://h:1");
  EXPECT_EQ(parse_url("http://h:1/a/v1").url, "http://h:1/a");
}

TEST(Endpoint, RefusesWhatIsNoUrlOfAServer) {
  for (const char* url : {"", "http://", "ftp://h", "file:///etc/passwd", "http://:1", "http://h:a", "http://h:70000",
                          "http://[::1", "http://[::1]x", "http://a:b:1", "http://u@h", "http://u:k@h", "http://h/?q",
                          "http://h/#f", "http://h h", "http://h\nx"})
    EXPECT_THROW(parse_url(url), Error) << url;
  EXPECT_THROW(parse_url("http://h", "a\r\nX: y"), Error);
}

}  // namespace
}  // namespace kt
