#include "runtime/comm/rendezvous.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <sstream>
#include <string>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/comm/interfaces.h"

namespace kt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPatience = std::chrono::seconds(30);  // for all ranks to come
constexpr int kStepMs = 2000;                         // for one connection, greeting or answer
constexpr unsigned kGoneMs = 10'000;                  // after which a machine that acknowledges nothing is gone
constexpr size_t kSecretBytes = 16;

struct Secrets {
  char caller[kSecretBytes], host[kSecretBytes];  // who shows which
};
struct Greeting {
  char secret[kSecretBytes];
  int32_t rank;
};

// An address with its length, as the socket calls want it.
struct Address {
  sockaddr_storage bytes = {};
  socklen_t size = 0;

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&bytes); }
  in_port_t& port() {
    return bytes.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bytes)->sin6_port
                                       : reinterpret_cast<sockaddr_in*>(&bytes)->sin_port;
  }
};

Address address_of(const std::string& text, int port) {
  Address a;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&a.bytes);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&a.bytes);
  const bool is_v6 = text.find(':') != std::string::npos;
  a.bytes.ss_family = is_v6 ? AF_INET6 : AF_INET;
  a.size = is_v6 ? sizeof *v6 : sizeof *v4;
  inet_pton(a.bytes.ss_family, text.c_str(), is_v6 ? static_cast<void*>(&v6->sin6_addr) : &v4->sin_addr);
  a.port() = htons(static_cast<uint16_t>(port));
  return a;
}

bool is_ready(int fd, short events, int ms) {
  pollfd waiting{fd, events, 0};
  return poll(&waiting, 1, ms) > 0;
}

template <class T>
bool receive(int fd, T& value) {
  size_t got = 0;
  while (got < sizeof value && is_ready(fd, POLLIN, kStepMs)) {
    const ssize_t n = recv(fd, reinterpret_cast<char*>(&value) + got, sizeof value - got, MSG_DONTWAIT);
    if (n <= 0) return false;
    got += static_cast<size_t>(n);
  }
  return got == sizeof value;
}

template <class T>
bool send_all(int fd, const T& value) {  // far less than a socket takes at once
  return send(fd, &value, sizeof value, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(sizeof value);
}

void set(int fd, int level, int option, int value) { setsockopt(fd, level, option, &value, sizeof value); }

Descriptor connected(Descriptor socket) {
  set(socket.fd(), IPPROTO_TCP, TCP_NODELAY, 1);
  set(socket.fd(), IPPROTO_TCP, TCP_USER_TIMEOUT, kGoneMs);
  return socket;
}

// On the first of these addresses where that is possible. Throws where it is on none.
Descriptor listen_on(std::span<const std::string> addresses) {
  for (const std::string& where : addresses) {
    Address address = address_of(where, 0);
    Descriptor listener(socket(address.bytes.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (address.bytes.ss_family == AF_INET6) set(listener.fd(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (bind(listener.fd(), address.get(), address.size) == 0 && listen(listener.fd(), SOMAXCONN) == 0) return listener;
  }
  fail(kExitTryAgain, "rank 0 cannot listen for the other ranks: {}", std::strerror(errno));
}

int port_of(const Descriptor& listener) {
  Address address;
  address.size = sizeof address.bytes;
  getsockname(listener.fd(), address.get(), &address.size);
  return ntohs(address.port());
}

std::vector<Descriptor> receive_ranks(const Descriptor& listener, int world, const Secrets& secrets,
                                      const std::string& where) {
  std::vector<Descriptor> sockets(static_cast<size_t>(world));
  const Clock::time_point end = Clock::now() + kPatience;
  int missing = world - 1;
  while (missing > 0 && Clock::now() < end) {
    if (!is_ready(listener.fd(), POLLIN, 100)) continue;
    Descriptor caller(accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    Greeting greeting{};
    if (caller.fd() < 0 || !receive(caller.fd(), greeting)) continue;
    if (std::memcmp(greeting.secret, secrets.caller, kSecretBytes) != 0) continue;
    if (greeting.rank < 1 || greeting.rank >= world || sockets[static_cast<size_t>(greeting.rank)].fd() >= 0) continue;
    if (!send_all(caller.fd(), secrets.host)) continue;
    sockets[static_cast<size_t>(greeting.rank)] = connected(std::move(caller));
    --missing;
  }
  for (int r = 1; r < world; ++r)
    if (sockets[static_cast<size_t>(r)].fd() < 0)
      fail(kExitUsage,
           "rank {} did not connect to rank 0 by TCP within {} s, at {}\n"
           "  ranks need one such connection beside MPI; look at firewalls and addresses between the machines",
           r, kPatience.count(), where);
  return sockets;
}

Descriptor call(Address address, int rank, const Secrets& secrets) {
  Descriptor socket(::socket(address.bytes.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.fd() < 0) return Descriptor();
  if (connect(socket.fd(), address.get(), address.size) != 0 && errno != EINPROGRESS) return Descriptor();
  int error = 0;
  socklen_t size = sizeof error;
  if (!is_ready(socket.fd(), POLLOUT, kStepMs) || getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 ||
      error != 0)
    return Descriptor();
  Greeting greeting{};
  std::memcpy(greeting.secret, secrets.caller, kSecretBytes);
  greeting.rank = rank;
  char answer[kSecretBytes];
  if (!send_all(socket.fd(), greeting) || !receive(socket.fd(), answer) ||
      std::memcmp(answer, secrets.host, kSecretBytes) != 0)
    return Descriptor();
  return connected(std::move(socket));
}

// `where`: rank 0's port and addresses.
Descriptor find_rank_0(const std::string& where, int rank, const Secrets& secrets) {
  const Clock::time_point end = Clock::now() + kPatience;
  while (Clock::now() < end) {
    std::istringstream words(where);
    int port = 0;
    words >> port;
    for (std::string address; words >> address;)
      if (Descriptor socket = call(address_of(address, port), rank, secrets); socket.fd() >= 0) return socket;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  fail(kExitUsage,
       "rank {} finds rank 0 by TCP at none of its addresses (port, addresses: {})\n"
       "  ranks need one such connection beside MPI; look at firewalls and addresses between the machines",
       rank, where);
}

// The secrets as bytes, then the port and the addresses where the listener can be reached, split by spaces.
std::string invite(const Descriptor& listener, std::span<const std::string> addresses) {
  Secrets secrets{};
  if (getrandom(&secrets, sizeof secrets, 0) != sizeof secrets) fail(kExitTryAgain, "no random bytes");
  std::string text(reinterpret_cast<const char*>(&secrets), sizeof secrets);
  text += std::to_string(port_of(listener));
  for (const std::string& a : addresses) text += ' ' + a;
  return text;
}

}  // namespace

std::vector<Descriptor> meet_at_rank_0(Transport& transport, std::string_view interfaces) {
  const std::vector<int> nodes = transport.nodes();
  const bool one_machine = std::count(nodes.begin(), nodes.end(), nodes.front()) == static_cast<int64_t>(nodes.size());
  std::vector<Descriptor> sockets(static_cast<size_t>(transport.size()));
  if (transport.size() == 1) return sockets;

  Descriptor listener;
  std::string invitation, failure;
  try {
    if (transport.rank() == 0) {
      std::vector<std::string> reached = own_addresses(interfaces), listening = {"::", "0.0.0.0"};
      if (one_machine) reached = {"127.0.0.1"};
      if (one_machine || !interfaces.empty()) {
        reached.resize(1);
        listening = reached;
      }
      listener = listen_on(listening);
      invitation = invite(listener, reached);
    }
  } catch (const Error& e) {
    failure = e.what();
  }
  invitation = all_gather(transport, invitation).front();
  if (invitation.empty()) fail(kExitTryAgain, "{}", failure.empty() ? "rank 0 has no place to meet" : failure);
  Secrets secrets{};
  std::memcpy(&secrets, invitation.data(), sizeof secrets);
  const std::string where = invitation.substr(sizeof secrets);
  if (transport.rank() == 0) return receive_ranks(listener, transport.size(), secrets, where);
  sockets.front() = find_rank_0(where, transport.rank(), secrets);
  return sockets;
}

}  // namespace kt
