// Included inside the unnamed namespace of a table, after <cstdlib>.

// Memory of this thread, grown when needed.
class Scratch {
 public:
  ~Scratch() { __builtin_free(data_); }
  std::byte* at_least(size_t bytes) {
    if (bytes > size_) {
      __builtin_free(data_);
      size_ = (bytes + 4095) / 4096 * 4096;
      data_ = static_cast<std::byte*>(aligned_alloc(64, size_));
    }
    return data_;
  }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};
