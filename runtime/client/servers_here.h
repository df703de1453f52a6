#pragma once

#include <filesystem>
#include <string>

namespace kt {

// Servers of this user on this machine can be found without their addresses: each has a file with its URL,
// servers/HOST.PID in the state folder, and holds a lock on it (flock) while it lives. A file without a lock is of a
// server that was killed; it is not believed, and removed by who finds it.
class ServerNotice {
 public:
  explicit ServerNotice(const std::string& url);  // where no file can be had, a line of the log says so
  ~ServerNotice();
  ServerNotice(const ServerNotice&) = delete;

 private:
  std::filesystem::path file_;  // "": none
  int lock_ = -1;
};

// Of the server that was started last, or http://127.0.0.1:30000 where none is known.
std::string url_of_last_server();

}  // namespace kt
