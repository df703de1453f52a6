#include "kernels/buffer.h"

#include <numa.h>
#include <numaif.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>
#include <utility>
#include <vector>

#include "kernels/numeric.h"

namespace kt {

void Buffer::map(int file, int node) {
  const size_t mapped = footprint(size_);
  const int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED | MAP_NORESERVE;
  void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, flags, file, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  madvise(p, mapped, MADV_HUGEPAGE);
  if (node >= 0 && numa_available() >= 0 && node <= numa_max_node()) {
    bitmask* nodes = numa_allocate_nodemask();
    numa_bitmask_setbit(nodes, static_cast<unsigned>(node));
    mbind(p, mapped, MPOL_BIND, nodes->maskp, nodes->size + 1, MPOL_MF_MOVE);  // EPERM in some containers: first touch
    numa_free_nodemask(nodes);                                                 // decides
  }
  data_ = static_cast<std::byte*>(p);
}

Buffer::Buffer(size_t size, int node, ThreadPool& pool) : size_(size) {
  if (size == 0) return;
  map(-1, node);
  pool.run(static_cast<int64_t>(footprint(size) / kHugePage), [&](int64_t i) {
    for (size_t at = 0; at < kHugePage; at += 4096)
      static_cast<volatile std::byte*>(data_)[i * kHugePage + at] = std::byte{0};
  });
}

// A file system that is full would kill a process that touches a page: the system is asked, where it can be
// (Linux 5.14).
Buffer::Buffer(int file, size_t size, int node, ThreadPool& pool) : size_(size) {
  if (size == 0) return;
  map(file, node);
  std::atomic<bool> refused = false;
  pool.run(static_cast<int64_t>(footprint(size) / kHugePage), [&](int64_t i) {
    std::byte* const page = data_ + i * kHugePage;
    if (madvise(page, kHugePage, MADV_POPULATE_WRITE) == 0) return;
    if (errno != EINVAL) refused = true;
    for (size_t at = 0; !refused && at < kHugePage; at += 4096) {
      volatile std::byte& touched = page[at];
      touched = touched;
    }
  });
  if (!refused) return;
  munmap(data_, footprint(size));
  throw std::bad_alloc();
}

Buffer::~Buffer() {
  if (release_)
    release_(data_);
  else if (data_)
    munmap(data_, footprint(size_));
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(release_, other.release_);
  return *this;
}

int current_numa_node() {
  if (numa_available() < 0) return 0;
  const int cpu = sched_getcpu();
  const int node = cpu < 0 ? -1 : numa_node_of_cpu(cpu);
  return std::max(node, 0);
}

int64_t misplaced_pages(const Buffer& buffer, int node) {
  constexpr size_t kStep = 1024 * 4096;
  std::vector<void*> pages;
  for (size_t at = 0; at < buffer.size(); at += kStep) pages.push_back(buffer.bytes() + at);
  if (pages.empty()) return 0;
  std::vector<int> status(pages.size(), -1);
  for (int attempt = 0; attempt < 2; ++attempt) {  // a page in flight reports an error once
    if (move_pages(0, pages.size(), pages.data(), nullptr, status.data(), 0) != 0) return -1;
    if (std::all_of(status.begin(), status.end(), [](int s) { return s >= 0; })) break;
  }
  return std::count_if(status.begin(), status.end(), [&](int s) { return s != node; });
}

}  // namespace kt
