#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace kt {

// A bare socket to the server, so that tests can break every rule of HTTP.
class Client {
 public:
  explicit Client(int port, int receive_buffer = 0) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) throw std::runtime_error("connect");
  }
  Client(Client&& other) noexcept : fd_(std::exchange(other.fd_, -1)), in_(std::move(other.in_)) {}
  ~Client() { hang_up(); }

  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return;  // the server has closed; what it said before is still to be read
      bytes.remove_prefix(static_cast<size_t>(n));
    }
  }
  void hang_up() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  int local_port() const {
    sockaddr_in own{};
    socklen_t size = sizeof own;
    getsockname(fd_, reinterpret_cast<sockaddr*>(&own), &size);
    return ntohs(own.sin_port);
  }
  void send_no_more() { shutdown(fd_, SHUT_WR); }

  // Everything up to and with `end`; "" takes all until the server closes. Gives what there is after `seconds`.
  std::string read_until(std::string_view end, double seconds = 5) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    for (;;) {
      const size_t at = end.empty() ? in_.npos : in_.find(end);
      if (at != in_.npos) return take(at + end.size());
      const double left = std::chrono::duration<double>(deadline - std::chrono::steady_clock::now()).count();
      pollfd poll_fd{fd_, POLLIN, 0};
      if (left <= 0 || poll(&poll_fd, 1, static_cast<int>(left * 1000) + 1) <= 0) return take(in_.size());
      char buffer[65536];
      const ssize_t n = recv(fd_, buffer, sizeof buffer, 0);
      if (n <= 0) {
        closed_ = true;
        return take(in_.size());
      }
      in_.append(buffer, static_cast<size_t>(n));
    }
  }
  bool closed() const { return closed_; }  // the server was seen to close

  // One response with Content-Length.
  std::string read_response(double seconds = 5) {
    std::string head = read_until("\r\n\r\n", seconds);
    const size_t at = head.find("Content-Length: ");
    const size_t size = at == head.npos ? 0 : std::stoul(head.substr(at + 16));
    while (in_.size() < size && !closed_) {
      const size_t had = in_.size();
      in_ = read_until("\x01never", 0.2);
      if (in_.size() == had && (seconds -= 0.2) < 0) break;
    }
    return head + take(std::min(size, in_.size()));
  }

 private:
  std::string take(size_t count) {
    std::string taken = in_.substr(0, count);
    in_.erase(0, count);
    return taken;
  }

  int fd_;
  std::string in_;
  bool closed_ = false;
};

inline std::string get(std::string_view path, std::string_view headers = "") {
  return std::string("GET ").append(path).append(" HTTP/1.1\r\nHost: localhost\r\n").append(headers).append("\r\n");
}

inline std::string post(std::string_view path, std::string_view body,
                        std::string_view headers = "Content-Type: application/json\r\n") {
  return std::string("POST ")
             .append(path)
             .append(" HTTP/1.1\r\nHost: localhost\r\n")
             .append(headers)
             .append("Content-Length: ") +
         std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
}

// The number in "HTTP/1.1 200 OK", 0 when there is none.
inline int status_of(std::string_view response) {
  return response.starts_with("HTTP/1.1 ") ? std::stoi(std::string(response.substr(9, 3))) : 0;
}

}  // namespace kt
