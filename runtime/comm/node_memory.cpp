#include "runtime/comm/node_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kernels/numeric.h"
#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr size_t kHugePage = size_t{2} << 20, kPage = 4096;

[[noreturn]] void refuse(const char* call, size_t bytes) {
  fail(kExitTryAgain, "{} bytes of memory for the ranks of one machine together: {}: {}", bytes, call,
       std::strerror(errno));
}

}  // namespace

std::vector<size_t> part_offsets(std::span<const size_t> sizes) {
  std::vector<size_t> offsets;
  size_t at = 0;
  const auto align = [&](size_t unit) { at = (at + unit - 1) / unit * unit; };
  for (const size_t size : sizes) {
    align(size >= kHugePage ? kHugePage : kPage);  // ranks write to pages of their own
    offsets.push_back(at);
    at += size;
  }
  align(kPage);
  offsets.push_back(at);
  return offsets;
}

MemoryFile::MemoryFile(size_t bytes) : file_(memfd_create("ktmpi", MFD_CLOEXEC)), bytes_(bytes) {
  if (file_ < 0) refuse("memfd_create", bytes);
  if (ftruncate(file_, static_cast<off_t>(bytes)) != 0) refuse("ftruncate", bytes);
}

MemoryFile::MemoryFile(std::span<const long, 2> id, size_t bytes) : bytes_(bytes) {
  const std::string path = fmt::format("/proc/{}/fd/{}", id[0], id[1]);
  file_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file_ < 0) refuse(path.c_str(), bytes);
}

MemoryFile::~MemoryFile() {
  if (file_ >= 0) close(file_);
}

std::array<long, 2> MemoryFile::id() const { return {static_cast<long>(getpid()), static_cast<long>(file_)}; }

std::shared_ptr<void> MemoryFile::map() const {
  if (bytes_ == 0) return nullptr;
  // Room to begin at a huge page: parts are aligned from the beginning of the block.
  void* room = mmap(nullptr, bytes_ + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) refuse("mmap", bytes_);
  const auto address = reinterpret_cast<uintptr_t>(room);
  void* at = reinterpret_cast<void*>((address + kHugePage - 1) / kHugePage * kHugePage);
  if (mmap(at, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_, 0) == MAP_FAILED) refuse("mmap", bytes_);
  madvise(at, bytes_, MADV_HUGEPAGE);
  const size_t mapped = bytes_ + kHugePage;
  return {at, [room, mapped](void*) { munmap(room, mapped); }};
}

}  // namespace kt
