#include "runtime/supervise/port_loan.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace kt {
namespace {

constexpr const char* kVariable = "KTMPI_UP";
constexpr size_t kMostListeners = 64;  // addresses of one host
constexpr char kReady = 'r';
constexpr char kExit = 'e';  // and the code

// What goes with the descriptors, which is also how many of them: 0 is a refusal.
struct Terms {
  int32_t listeners = 0, restarts = 0;
};

union Control {
  std::array<char, CMSG_SPACE(kMostListeners * sizeof(int))> bytes;
  cmsghdr aligned;
};

// In the abstract namespace: the name is gone with its socket and is in no folder.
std::pair<sockaddr_un, socklen_t> address_of(const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const size_t size = name.copy(address.sun_path + 1, sizeof address.sun_path - 1);
  return {address, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + size)};
}

Descriptor open_socket() {
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (socket.fd() < 0) fail(kExitTryAgain, "a Unix socket: {}", std::strerror(errno));
  return socket;
}

std::string unused_name() {
  uint64_t number = 0;
  if (getrandom(&number, sizeof number, 0) != sizeof number) fail(kExitTryAgain, "getrandom: {}", std::strerror(errno));
  return fmt::format("ktmpi-up-{}-{:016x}", getpid(), number);
}

// Of the other side; a pid of 0 is one that this process cannot see.
ucred credentials(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) peer.uid = ~geteuid();
  return peer;
}

bool send_terms(int to, Terms terms, std::span<const int> listeners) {
  Control control{};
  iovec part{&terms, sizeof terms};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!listeners.empty()) {
    message.msg_control = &control;
    message.msg_controllen = CMSG_SPACE(listeners.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(listeners.size_bytes());
    std::memcpy(CMSG_DATA(header), listeners.data(), listeners.size_bytes());
  }
  return sendmsg(to, &message, MSG_NOSIGNAL) == sizeof terms;
}

std::optional<std::pair<Terms, std::vector<int>>> receive_terms(int from) {
  Terms terms;
  Control control{};
  iovec part{&terms, sizeof terms};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = sizeof control;
  if (recvmsg(from, &message, MSG_CMSG_CLOEXEC) != sizeof terms) return std::nullopt;
  std::vector<int> listeners;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    listeners.resize((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(listeners.data(), CMSG_DATA(header), listeners.size() * sizeof(int));
  }
  return std::pair(terms, std::move(listeners));
}

}  // namespace

PortLender::PortLender() : door_(open_socket()) {
  const std::string name = unused_name();
  const auto [address, size] = address_of(name);
  if (bind(door_.fd(), reinterpret_cast<const sockaddr*>(&address), size) != 0 || listen(door_.fd(), 8) != 0)
    fail(kExitTryAgain, "a Unix socket: {}", std::strerror(errno));
  setenv(kVariable, name.c_str(), 1);
}

bool PortLender::lend(std::span<const int> listeners, int restarts) {
  Descriptor asking(accept4(door_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  const ucred peer = credentials(asking.fd());
  if (asking.fd() < 0 || peer.uid != geteuid()) return false;
  if (borrower() >= 0) {
    send_terms(asking.fd(), {}, {});
    return false;
  }
  listeners = listeners.first(std::min(listeners.size(), kMostListeners));
  if (!send_terms(asking.fd(), {static_cast<int32_t>(listeners.size()), restarts}, listeners)) return false;
  borrower_ = std::move(asking);
  borrower_pid_ = peer.pid;
  exit_code_.reset();
  return true;
}

PortLender::News PortLender::hear() {
  unsigned char word[2] = {};
  const ssize_t size = recv(borrower(), word, sizeof word, 0);
  if (size == 2 && word[0] == kExit) exit_code_ = word[1];
  if (size > 0) return size == 1 && word[0] == kReady ? News::ready : News::none;
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return News::none;
  borrower_ = Descriptor();
  return News::gone;
}

void PortLender::evict() {
  News news = borrower() < 0 ? News::gone : hear();
  for (int more = 0; more < 2 && news != News::gone; ++more) news = hear();
  if (news == News::gone) return;
  log_warning("process {} has the port and no job: killing it", borrower_pid_);
  if (borrower_pid_ > 0) kill(borrower_pid_, SIGKILL);
  borrower_ = Descriptor();
}

void PortLoan::tell_ready() const { send(lender_.fd(), &kReady, 1, MSG_NOSIGNAL); }

void PortLoan::tell_exit(int code) const {
  const char word[] = {kExit, static_cast<char>(code)};
  send(lender_.fd(), word, sizeof word, MSG_NOSIGNAL);
}

std::optional<PortLoan> borrow_port() {
  const char* name = std::getenv(kVariable);
  if (!name) return std::nullopt;
  Descriptor lender = open_socket();
  const auto [address, size] = address_of(name);
  if (connect(lender.fd(), reinterpret_cast<const sockaddr*>(&address), size) != 0)
    fail(kExitUsage,
         "{}: ktmpi up is not on this machine, where rank 0 is ({}); start it there, or with this machine first",
         kVariable, std::strerror(errno));
  auto received = receive_terms(lender.fd());
  if (!received) fail(kExitPeerLost, "{}: ktmpi up has ended", kVariable);
  auto& [terms, listeners] = *received;
  if (terms.listeners == 0)
    fail(kExitPort, "ktmpi up has lent its port to another rank 0: the ranks are not one job; srun takes --mpi=pmix");
  if (static_cast<size_t>(terms.listeners) != listeners.size())
    fail(kExitTryAgain, "of {} sockets that ktmpi up lends {} came", terms.listeners, listeners.size());
  return PortLoan(std::move(lender), std::move(listeners), terms.restarts);
}

}  // namespace kt
