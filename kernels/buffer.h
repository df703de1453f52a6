#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/thread_pool.h"

namespace kt {

// Zeroed memory with huge pages where the system grants them, bound to a NUMA node when one is named, touched first by
// the pool's pinned threads. Move-only; bytes() are readable up to size(), 64-byte aligned.
class Buffer {
 public:
  Buffer() = default;
  // node < 0: wherever the touching threads run. Throws std::bad_alloc when the address space or memory is refused.
  Buffer(size_t size, int node, ThreadPool& pool);
  // The memory of a file of footprint(size) bytes, which others may map and which keeps what is in it: pages that the
  // file has are moved to that node.
  Buffer(int file, size_t size, int node, ThreadPool& pool);
  // Memory that came from elsewhere, of a device for example, and how to give it back.
  Buffer(void* at, size_t size, void (*release)(void*))
      : data_(static_cast<std::byte*>(at)), size_(size), release_(release) {}
  ~Buffer();
  Buffer(Buffer&& other) noexcept { *this = static_cast<Buffer&&>(other); }
  Buffer& operator=(Buffer&& other) noexcept;

  std::byte* bytes() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  size_t size() const { return size_; }
  // What a buffer of that size takes from the system: whole huge pages, all of them touched.
  static size_t footprint(size_t size) { return (size + kHugePage - 1) / kHugePage * kHugePage; }

 private:
  static constexpr size_t kHugePage = 2u << 20;

  void map(int file, int node);

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  void (*release_)(void*) = nullptr;  // null: it was mapped
};

// The NUMA node that this thread runs on, 0 where the machine does not say.
int current_numa_node();
// Of about one page in 1024 of the buffer, how many lie on another node than `node`; -1 when the system does not tell.
int64_t misplaced_pages(const Buffer& buffer, int node);

}  // namespace kt
