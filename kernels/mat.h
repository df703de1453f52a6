#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/numeric.h"

namespace kt {

// A matrix in a device's memory, or a part of one: rows of `columns` elements, `ld` elements from one to the next. Owns
// nothing. What it points to is for the device's operations alone: a host may not read there.
template <class T>
struct Mat {
  T* at = nullptr;
  int64_t ld = 0;
  int rows = 0, columns = 0;

  constexpr T* row(int64_t r) const { return at + r * ld; }
  constexpr Mat part(int64_t first, int count) const { return {row(first), ld, count, columns}; }
  constexpr Mat top(int count) const { return part(0, count); }
};

// Lays things out one after the other, each at a multiple of 64 bytes. Without memory it only counts: what plans memory
// and what takes it are the same function, called twice.
class Layout {
 public:
  explicit Layout(std::byte* memory = nullptr) : memory_(memory) {}

  template <class T>
  T* array(int64_t count) {
    T* at = memory_ ? reinterpret_cast<T*>(memory_ + bytes_) : nullptr;
    bytes_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(T)), 64));
    return at;
  }
  // Rows are padded to a multiple of `unit` columns.
  template <class T>
  Mat<T> matrix(int64_t rows, int64_t columns, int64_t unit = 1) {
    const int64_t ld = round_up(columns, unit);
    return {array<T>(rows * ld), ld, static_cast<int>(rows), static_cast<int>(columns)};
  }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  size_t bytes_ = 0;
};

}  // namespace kt
