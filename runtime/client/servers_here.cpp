#include "runtime/client/servers_here.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "runtime/base/error.h"
#include "runtime/base/host_name.h"
#include "runtime/base/log.h"
#include "runtime/client/endpoint.h"
#include "runtime/client/state_folder.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kUnfinished = ".new";

// Whether the server lives that wrote the file.
bool is_locked(const fs::path& file) {
  const int descriptor = open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0) return false;
  const bool locked = flock(descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  close(descriptor);
  return locked;
}

// "": the file says nothing that is a URL.
std::string url_in(const fs::path& file) {
  std::string line;
  std::getline(std::ifstream(file), line);
  try {
    return parse_url(line).url;
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

ServerNotice::ServerNotice(const std::string& url) {
  if (state_folder().empty()) return;
  const fs::path file = state_folder() / "servers" / fmt::format("{}.{}", host_name(), getpid());
  const fs::path unfinished = file.string() + std::string(kUnfinished);
  const std::string line = url + "\n";
  if (make_private_folder(file.parent_path()))
    lock_ = open(unfinished.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (lock_ >= 0 && flock(lock_, LOCK_EX | LOCK_NB) == 0 &&
      write(lock_, line.data(), line.size()) == static_cast<ssize_t>(line.size()) &&
      rename(unfinished.c_str(), file.c_str()) == 0)
    file_ = file;
  else
    log("{}: cannot be written: {}; ktmpi chat needs --url to find this server", file.string(), std::strerror(errno));
}

ServerNotice::~ServerNotice() {
  if (!file_.empty()) unlink(file_.c_str());
  if (lock_ >= 0) close(lock_);
}

std::string url_of_last_server() {
  std::string last = "http://127.0.0.1:30000";
  fs::file_time_type started = fs::file_time_type::min();
  std::error_code error;
  const std::string of_here = host_name() + ".";
  for (const auto& entry : fs::directory_iterator(state_folder() / "servers", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(of_here) || name.find_first_not_of("0123456789", of_here.size()) != name.npos) continue;
    if (!is_locked(entry.path())) {
      fs::remove(entry.path(), error);
      continue;
    }
    const std::string url = url_in(entry.path());
    const fs::file_time_type time = entry.last_write_time(error);
    if (error || url.empty() || time < started) continue;
    started = time;
    last = url;
  }
  return last;
}

}  // namespace kt
