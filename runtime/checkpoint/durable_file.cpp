#include "runtime/checkpoint/durable_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/base/error.h"

namespace kt {
DurableFile::DurableFile(std::filesystem::path path) : path_(std::move(path)), part_(path_.string() + ".part") {
  constexpr mode_t kReadableByAll = 0644;
  file_ = ::open(part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kReadableByAll);
  if (file_ < 0) refuse("open");
}

DurableFile::~DurableFile() {
  if (file_ >= 0) ::close(file_);
}

void DurableFile::write(std::span<const std::byte> bytes, uint64_t position) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(position));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) refuse("write");
    bytes = bytes.subspan(static_cast<size_t>(written));
    position += static_cast<uint64_t>(written);
  }
}

void DurableFile::commit() {
  if (::fsync(file_) != 0) refuse("sync");
  if (::close(std::exchange(file_, -1)) != 0) refuse("close");
  if (::rename(part_.c_str(), path_.c_str()) != 0) refuse("rename");
  // The name, too: a folder is synced through a descriptor of its own. Not all file systems can.
  const int folder = ::open(path_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  ::fsync(folder);
  ::close(folder);
}

void DurableFile::refuse(const char* what) const {
  fail(kExitTryAgain, "{}: cannot {}: {}", part_.string(), what, std::strerror(errno));
}

FolderLock::FolderLock(const std::filesystem::path& folder)
    : file_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (file_ < 0) fail(kExitUsage, "{}: cannot open: {}", folder.string(), std::strerror(errno));
  if (::flock(file_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;  // some file systems have no locks
  ::close(file_);
  fail(kExitTryAgain, "{}: another process is writing to this folder", folder.string());
}

FolderLock::~FolderLock() { ::close(file_); }

}  // namespace kt
