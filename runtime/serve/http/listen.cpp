#include "runtime/serve/http/listen.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/error.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <optional>
#include <utility>

#include "runtime/base/error.h"

namespace kt {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

// Not what the system's tables make of the name, which may be one family alone.
bool is_localhost(const std::string& host) { return host == "localhost"; }

std::vector<tcp::endpoint> endpoints_of(asio::io_context& io, const std::string& host, int port) {
  const auto number = static_cast<uint16_t>(port);
  if (is_localhost(host))
    return {{asio::ip::address_v4::loopback(), number}, {asio::ip::address_v6::loopback(), number}};
  error_code ec;
  const auto found = tcp::resolver(io).resolve(host, std::to_string(port), tcp::resolver::passive, ec);
  if (ec) fail(kExitUsage, "host {}: cannot be resolved ({}); try 127.0.0.1 or 0.0.0.0", host, ec.message());
  std::vector<tcp::endpoint> endpoints;
  for (const auto& entry : found)
    if (std::find(endpoints.begin(), endpoints.end(), entry.endpoint()) == endpoints.end())
      endpoints.push_back(entry.endpoint());
  return endpoints;
}

error_code open_at(tcp::acceptor& acceptor, const tcp::endpoint& endpoint) {
  error_code ec;
  acceptor.open(endpoint.protocol(), ec);
  if (!ec) acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec && endpoint.protocol() == tcp::v6() && !endpoint.address().is_unspecified())
    acceptor.set_option(asio::ip::v6_only(true), ec);
  if (!ec) acceptor.bind(endpoint, ec);
  if (!ec) acceptor.listen(asio::socket_base::max_listen_connections, ec);
  return ec;
}

[[noreturn]] void refuse(const std::string& host, int port, const error_code& ec) {
  const std::string what = fmt::format("port {} of {}: cannot listen ({})", port, host, ec.message());
  if (ec == asio::error::address_in_use)
    fail(kExitPort, "{}; stop the program that has it or choose another with --port", what);
  if (ec == asio::error::access_denied)
    fail(kExitUsage, "{}; ports below 1024 take a privilege: choose another with --port", what);
  if (ec == boost::system::errc::address_not_available)
    fail(kExitUsage, "{}; it is no address of this machine: try --host 127.0.0.1 or 0.0.0.0", what);
  if (ec == asio::error::no_descriptors || ec == asio::error::no_buffer_space || ec == asio::error::no_memory)
    fail(kExitTryAgain, "{}", what);
  fail(kExitUsage, "{}; try --host 127.0.0.1 or 0.0.0.0", what);
}

// One family of localhost may be missing.
bool may_lack(const std::string& host, const error_code& ec) {
  return is_localhost(host) &&
         (ec == asio::error::address_family_not_supported || ec == boost::system::errc::address_not_available);
}

// Nothing when a port that was free on the first address is not on another.
std::optional<std::vector<tcp::acceptor>> try_to_listen(asio::io_context& io, std::vector<tcp::endpoint> endpoints,
                                                        const std::string& host, int port) {
  std::vector<tcp::acceptor> acceptors;
  error_code missing;
  for (tcp::endpoint& endpoint : endpoints) {
    if (!acceptors.empty()) endpoint.port(acceptors.front().local_endpoint().port());
    tcp::acceptor acceptor(io);
    const error_code ec = open_at(acceptor, endpoint);
    if (ec == asio::error::address_in_use && port == 0) return std::nullopt;
    if (ec && !may_lack(host, ec)) refuse(host, port, ec);
    if (ec) {
      missing = ec;
    } else {
      acceptors.push_back(std::move(acceptor));
    }
  }
  if (acceptors.empty()) refuse(host, port, missing);
  return acceptors;
}

}  // namespace

std::vector<tcp::acceptor> listen_on(asio::io_context& io, const std::string& host, int port) {
  constexpr int kTries = 32;
  const std::vector<tcp::endpoint> endpoints = endpoints_of(io, host, port);
  for (int i = 0; i < kTries; ++i)
    if (auto acceptors = try_to_listen(io, endpoints, host, port)) return *std::move(acceptors);
  fail(kExitPort, "port 0 of {}: no port is free on all of its addresses", host);
}

std::vector<tcp::acceptor> listen_on(asio::io_context& io, const std::vector<int>& sockets) {
  std::vector<tcp::acceptor> acceptors;
  for (const int socket : sockets) {
    int family = 0;
    socklen_t size = sizeof family;
    getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &family, &size);
    acceptors.emplace_back(io, family == AF_INET6 ? tcp::v6() : tcp::v4(), socket);
  }
  return acceptors;
}

void close_own(tcp::acceptor& acceptor) {
  error_code ec;
  if (const int socket = acceptor.release(ec); !ec) close(socket);
}

void allow_connections(size_t count) {
  constexpr rlim_t kOtherFiles = 512;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::min(limit.rlim_max, std::max<rlim_t>(limit.rlim_cur, count + kOtherFiles));
  setrlimit(RLIMIT_NOFILE, &limit);
}

asio::ip::address client_address(const asio::ip::address& from) {
  if (from.is_v4()) return from;
  const asio::ip::address_v6 address = from.to_v6();
  if (address.is_v4_mapped()) return asio::ip::make_address_v4(asio::ip::v4_mapped, address);
  auto bytes = address.to_bytes();
  std::fill(bytes.begin() + 8, bytes.end(), uint8_t{0});
  return asio::ip::address_v6(bytes);
}

}  // namespace kt
