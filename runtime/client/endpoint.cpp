#include "runtime/client/endpoint.h"

#include <algorithm>

#include "runtime/base/error.h"

namespace kt {
namespace {

bool is_port(std::string_view text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  return !text.empty() && text.size() <= 5 && std::all_of(text.begin(), text.end(), is_digit) &&
         std::stoi(std::string(text)) <= 65535;
}

}  // namespace

Endpoint parse_url(std::string_view url, std::string_view api_key) {
  const auto refuse = [&](std::string_view why) { fail(kExitUsage, "{}: {}; expected http://HOST:PORT", url, why); };
  std::string_view rest = url;
  if (const size_t scheme = rest.find("://"); scheme != rest.npos) {
    if (rest.substr(0, scheme) != "http") refuse("only http is spoken");
    rest.remove_prefix(scheme + 3);
  }
  std::string_view authority = rest.substr(0, rest.find('/'));
  std::string_view path = rest.substr(authority.size());
  if (path.find_first_of("?# \t\r\n") != path.npos) refuse("a query or white space in a URL");
  while (path.ends_with('/')) path.remove_suffix(1);
  if (path.ends_with("/v1")) path.remove_suffix(3);

  Endpoint endpoint{.port = "80", .path = std::string(path), .api_key = std::string(api_key)};
  const bool bracketed = authority.starts_with('[');  // an IPv6 address
  const size_t end_of_host = bracketed ? authority.find(']') : authority.rfind(':');
  if (bracketed && end_of_host == authority.npos) refuse("no ] after the address");
  const size_t colon = bracketed ? end_of_host + 1 : end_of_host;
  if (colon < authority.size()) {
    const std::string_view port = authority.substr(colon + 1);
    if (authority[colon] != ':' || !is_port(port)) refuse("no valid port");
    endpoint.port = port;
  }
  endpoint.host = bracketed ? authority.substr(1, end_of_host - 1) : authority.substr(0, end_of_host);
  if (endpoint.host.empty() || endpoint.host.find_first_of(" @\t\r\n:") < (bracketed ? 0 : endpoint.host.npos))
    refuse("no valid host");
  if (endpoint.api_key.find_first_of("\r\n") != std::string::npos)
    fail(kExitUsage, "api-key: a key has no line breaks");
  return endpoint;
}

}  // namespace kt
