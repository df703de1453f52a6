#include "runtime/model/experts/kept_bank.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr std::chrono::milliseconds kPause{50};

void require_memory(const std::filesystem::path& folder) {
  struct statfs system {};
  if (statfs(folder.c_str(), &system) != 0)
    fail(kExitUsage, "keep-bank: {}: {}", folder.string(), std::strerror(errno));
  if (system.f_type != TMPFS_MAGIC)
    fail(kExitUsage,
         "keep-bank: {}: expected a folder in memory (tmpfs), found another file system\n  try "
         "/dev/shm",
         folder.string());
}

// Whether this rank has it now; false: another has.
bool lock(int file) { return flock(file, LOCK_EX | LOCK_NB) == 0; }

// A file of that name, locked; none if there is no such file, or it was removed meanwhile.
Descriptor open_locked(const std::filesystem::path& path, std::chrono::milliseconds patience) {
  Descriptor file(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (file.fd() < 0) {
    if (errno == ENOENT) return file;
    fail(kExitUsage, "keep-bank: {}: {}", path.string(), std::strerror(errno));
  }
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!lock(file.fd())) {
    if (std::chrono::steady_clock::now() > end)
      fail(kExitTryAgain, "keep-bank: {}: another process has these experts\n  give each job a folder of its own",
           path.string());
    std::this_thread::sleep_for(kPause);
  }
  return file;
}

struct stat status_of(const Descriptor& file) {
  struct stat status {};
  fstat(file.fd(), &status);
  return status;
}

}  // namespace

KeptBank::KeptBank(const std::filesystem::path& folder, std::string_view key, size_t bytes,
                   std::chrono::milliseconds patience)
    : path_(folder / fmt::format("{}{}", kPrefix, key)), bytes_(bytes) {
  require_memory(folder);
  const auto size = static_cast<off_t>(Buffer::footprint(bytes));
  if (file_ = open_locked(path_, patience); file_.fd() >= 0) {
    const struct stat status = status_of(file_);
    if (status.st_uid != geteuid() || !S_ISREG(status.st_mode) || (status.st_mode & 077) != 0 || status.st_size != size)
      fail(kExitUsage, "keep-bank: {}: expected this user's own file of {} bytes, found another\n  rm {}",
           path_.string(), size, path_.string());
    filled_ = status.st_nlink > 0;
  }
  if (filled_) return;
  file_ = Descriptor(open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file_.fd() < 0 || ftruncate(file_.fd(), size) != 0 || !lock(file_.fd()))
    fail(kExitUsage, "keep-bank: {}: a file of {} bytes: {}", folder.string(), size, std::strerror(errno));
}

void KeptBank::publish(const Buffer& memory) {
  mprotect(memory.bytes(), Buffer::footprint(bytes_), PROT_READ);
  if (filled_) return;
  const std::string nameless = fmt::format("/proc/self/fd/{}", file_.fd());
  if (linkat(AT_FDCWD, nameless.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) != 0)
    fail(kExitUsage, "keep-bank: {}: {}", path_.string(), std::strerror(errno));
  filled_ = true;
}

void KeptBank::remove() { unlink(path_.c_str()); }

}  // namespace kt
