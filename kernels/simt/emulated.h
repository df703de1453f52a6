#pragma once

// CUDA's names, and simt.h's, on fibers. Included by simt.h.

#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <tuple>
#include <type_traits>

#include "kernels/simt/fibers.h"
#include "kernels/simt/numbers.h"
#include "kernels/simt/streams.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static thread_local  // works, but starts with what the last block left: shared<T>() is better

#define threadIdx (simt::emulated::self->index)
#define blockIdx (simt::emulated::worker->block)
#define blockDim (simt::emulated::worker->size)
#define gridDim (simt::emulated::worker->grid)
#define SIMT_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  uint32_t out = 0;
  for (int i = 0; i < 32; i += 8) {
    const auto byte = static_cast<uint8_t>(bytes >> 8 * (selector >> i / 2 & 7));
    out |= static_cast<uint32_t>(selector >> i / 2 & 8 ? (byte & 0x80 ? 0xff : 0) : byte) << i;
  }
  return out;
}

inline void __syncthreads(SIMT_PLACE) { simt::emulated::worker->barrier({file, line}); }
inline void __syncwarp(uint32_t mask = ~0u, SIMT_PLACE) {
  const auto all = [](simt::emulated::Fiber* lanes, uint32_t m) {
    for (; m; m &= m - 1) ++lanes[std::countr_zero(m)].warp_epoch;
  };
  simt::emulated::worker->meet("__syncwarp", mask, nullptr, all, {file, line});
}

namespace simt::emulated {

// Every lane says what it has and which lane's it wants.
template <class T>
T shuffle(const char* name, uint32_t mask, T value, int from, Place place) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  struct Slot {
    T value, result;
    int from;
  } slot{value, value, from};
  const auto all = [](Fiber* lanes, uint32_t met) {
    for (uint32_t left = met; left; left &= left - 1) {
      auto* s = static_cast<Slot*>(lanes[std::countr_zero(left)].slot);
      if (met >> s->from & 1)
        s->result = static_cast<Slot*>(lanes[s->from].slot)->value;
      else
        std::memset(&s->result, 0xff, sizeof(T));  // undefined
    }
  };
  worker->meet(name, mask, &slot, all, place);
  return slot.result;
}
inline uint32_t ballot(uint32_t mask, bool yes, Place place) {
  struct Slot {
    bool yes;
    uint32_t votes;
  } slot{yes, 0};
  const auto all = [](Fiber* lanes, uint32_t met) {
    uint32_t votes = 0;
    const auto at = [&](uint32_t left) { return static_cast<Slot*>(lanes[std::countr_zero(left)].slot); };
    for (uint32_t left = met; left; left &= left - 1) votes |= at(left)->yes ? left & -left : 0;
    for (uint32_t left = met; left; left &= left - 1) at(left)->votes = votes;
  };
  worker->meet("a vote", mask, &slot, all, place);
  return slot.votes;
}

}  // namespace simt::emulated

#define SIMT_SHUFFLE(name, argument, source)                                                                           \
  template <class T>                                                                                                   \
  T name(uint32_t mask, T v, int argument, int width = 32, SIMT_PLACE) {                                               \
    const int lane = simt::emulated::self->lane, first = lane & -width, from = source;                                 \
    return simt::emulated::shuffle(#name, mask, v, from < first || from >= first + width ? lane : from, {file, line}); \
  }
SIMT_SHUFFLE(__shfl_sync, from_lane, first | (from_lane & (width - 1)))
SIMT_SHUFFLE(__shfl_xor_sync, bits, lane ^ bits)
SIMT_SHUFFLE(__shfl_down_sync, by, lane + by)
SIMT_SHUFFLE(__shfl_up_sync, by, lane - by)
#undef SIMT_SHUFFLE
inline uint32_t __ballot_sync(uint32_t m, int yes, SIMT_PLACE) { return simt::emulated::ballot(m, yes, {file, line}); }
inline int __any_sync(uint32_t m, int yes, SIMT_PLACE) { return simt::emulated::ballot(m, yes, {file, line}) != 0; }
inline int __all_sync(uint32_t m, int yes, SIMT_PLACE) { return !simt::emulated::ballot(m, !yes, {file, line}); }

inline void __threadfence() { simt::emulated::fence(); }
inline void __threadfence_system() { simt::emulated::fence(); }
inline void __threadfence_block() {}  // fibers of a block see each other's writes in order

namespace simt::emulated {
template <class T>
T update(T* p, T v, T (*f)(T, T)) {
  if (watch.atomic) watch.atomic(p, false, false);
  T old, next;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  do next = f(old, v);
  while (!__atomic_compare_exchange(p, &old, &next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
}  // namespace simt::emulated
template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  return simt::emulated::update<T>(p, v, [](T a, T b) { return static_cast<T>(a + b); });
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  return simt::emulated::update<T>(p, v, [](T a, T b) { return a > b ? a : b; });
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v) {
  return simt::emulated::update<T>(p, v, [](T, T b) { return b; });
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  if (simt::emulated::watch.atomic) simt::emulated::watch.atomic(p, false, false);
  __atomic_compare_exchange(p, &expected, &v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}

namespace simt {

template <class T>
T& shared() {
  static const char key = 0;  // one object for each type, as in CUDA
  return *static_cast<T*>(emulated::worker->static_memory(&key, sizeof(T), alignof(T)));
}
template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emulated::worker->dynamic_memory());
}

namespace emulated {
inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
inline void perform(Fiber::Copy& c) {
  if (!c.to) return;
  if (watch.access && c.use) watch.access(c.from, 16, false);
  if (watch.access) watch.access(c.to, 16, true);
  if (c.use)
    std::memcpy(c.to, c.from, 16);
  else
    std::memset(c.to, 0, 16);
  c.to = nullptr;
}
template <bool kTransposed>
void load_matrices(uint32_t (&r)[4], const void* row, Place place) {
  struct Slot {
    uint32_t* r;
    const uint16_t* row;
  } slot{r, static_cast<const uint16_t*>(row)};
  if (!aligned(row)) worker->fail("ldmatrix of a row that is not aligned to 16 bytes");
  if (!worker->whole_warp()) worker->fail("ldmatrix in a warp that is not whole");
  if (watch.access) watch.access(row, 16, false);
  const auto all = [](Fiber* lanes, uint32_t) {
    // Lane 8 m + i names row i of matrix m. Lane 4 i + j gets elements 2j and 2j + 1 of row i; transposed: element i of
    // rows 2j and 2j + 1.
    const auto at = [&](int lane) { return static_cast<Slot*>(lanes[lane].slot); };
    for (int l = 0; l < 32; ++l)
      for (int m = 0; m < 4; ++m) {
        const int i = l / 4, j = l % 4 * 2;
        const uint32_t low = kTransposed ? at(8 * m + j)->row[i] : at(8 * m + i)->row[j];
        const uint32_t high = kTransposed ? at(8 * m + j + 1)->row[i] : at(8 * m + i)->row[j + 1];
        at(l)->r[m] = high << 16 | low;
      }
  };
  worker->meet(kTransposed ? "ldmatrix.trans" : "ldmatrix", ~0u, &slot, all, place);
}
}  // namespace emulated

inline void copy16(void* to, const void* from, bool use = true) {
  using emulated::self, emulated::worker;
  if (!emulated::aligned(to) || !emulated::aligned(from)) worker->fail("cp.async that is not aligned to 16 bytes");
  const auto mode = emulation.copies;
  self->copies.push_back({to, from, use, self->group});
  if (mode == Emulation::Copies::kEarly || (mode == Emulation::Copies::kRandom && worker->random() % 2))
    emulated::perform(self->copies.back());
}
inline void commit() { ++emulated::self->group; }
template <int kLeft>
void wait() {
  auto& copies = emulated::self->copies;
  auto c = copies.begin();
  for (; c != copies.end() && c->group < emulated::self->group - kLeft; ++c) emulated::perform(*c);
  copies.erase(copies.begin(), c);
}

inline void load_matrices(uint32_t (&r)[4], const void* row, SIMT_PLACE) {
  emulated::load_matrices<false>(r, row, {file, line});
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row, SIMT_PLACE) {
  emulated::load_matrices<true>(r, row, {file, line});
}
inline void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SIMT_PLACE) {
  using namespace emulated;
  struct Slot {
    float* d;
    const uint32_t *a, *b;
  } slot{d, a, b};
  if (!worker->whole_warp()) worker->fail("mma in a warp that is not whole");
  const auto all = [](Fiber* lanes, uint32_t) {
    // Lane 4 g + t holds of a: rows g (registers 0, 2) and g + 8 (1, 3), columns 2t and 2t + 1 (0, 1), 8 more (2, 3);
    // of b: column g, rows 2t and 2t + 1 (0), 8 more (1); of d: rows g (0, 1) and g + 8 (2, 3), columns 2t and 2t + 1.
    uint16_t rows[16][16], columns[16][8];
    float sums[16][8];
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, t = l % 4 * 2;
      const Slot& s = *static_cast<Slot*>(lanes[l].slot);
      for (int i = 0; i < 4; ++i)
        for (int h = 0; h < 2; ++h) rows[g + i % 2 * 8][t + h + i / 2 * 8] = static_cast<uint16_t>(s.a[i] >> 16 * h);
      for (int i = 0; i < 2; ++i)
        for (int h = 0; h < 2; ++h) columns[t + h + i * 8][g] = static_cast<uint16_t>(s.b[i] >> 16 * h);
      for (int i = 0; i < 4; ++i) sums[g + i / 2 * 8][t + i % 2] = s.d[i];
    }
    multiply(emulation.tensor_core, rows, columns, sums);
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) static_cast<Slot*>(lanes[l].slot)->d[i] = sums[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
  };
  worker->meet("mma", ~0u, &slot, all, {file, line});
}
inline void multiply_int8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SIMT_PLACE) {
  using namespace emulated;
  struct Slot {
    int32_t* d;
    const uint32_t *a, *b;
  } slot{d, a, b};
  if (!worker->whole_warp()) worker->fail("mma in a warp that is not whole");
  const auto all = [](Fiber* lanes, uint32_t) {
    // As of bf16, with four columns of a and rows of b where there two are: a register has 4t .. 4t + 3.
    int8_t rows[16][32], columns[32][8];
    int32_t sums[16][8];
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, t = l % 4;
      const Slot& s = *static_cast<Slot*>(lanes[l].slot);
      for (int h = 0; h < 4; ++h) {
        for (int i = 0; i < 4; ++i) rows[g + i % 2 * 8][4 * t + h + i / 2 * 16] = static_cast<int8_t>(s.a[i] >> 8 * h);
        for (int i = 0; i < 2; ++i) columns[4 * t + h + i * 16][g] = static_cast<int8_t>(s.b[i] >> 8 * h);
      }
      for (int i = 0; i < 4; ++i) sums[g + i / 2 * 8][2 * t + i % 2] = s.d[i];
    }
    multiply(rows, columns, sums);
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) static_cast<Slot*>(lanes[l].slot)->d[i] = sums[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
  };
  worker->meet("mma of bytes", ~0u, &slot, all, {file, line});
}
inline uint32_t fma_bf16(uint32_t a, uint32_t b, uint32_t c) {
  // Numbers are taken apart as integers: denormals do not count as zero.
  const auto value = [](uint32_t x) {
    const int e = static_cast<int>(x >> 7 & 255), m = static_cast<int>((x & 127) | (e ? 128 : 0));
    return std::copysign(std::ldexp(m, (e ? e : 1) - 134), x & 0x8000 ? -1.0 : 1.0);
  };
  uint32_t out = 0;
  for (int i = 0; i < 32; i += 16) {
    const double sum = std::fma(value(a >> i & 0xffff), value(b >> i & 0xffff), value(c >> i & 0xffff));
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(sum));
    if (bits & 0xffff || __uint_as_float(bits) != sum) emulated::worker->fail("fma_bf16 of what is no bf16");
    out |= bits >> 16 << i;
  }
  return out;
}

// A loop that waits for one of these lets others run.
inline uint32_t load_system(const uint32_t* p) {
  emulated::worker->yield();
  const uint32_t v = __atomic_load_n(p, __ATOMIC_ACQUIRE);
  if (emulated::watch.atomic) emulated::watch.atomic(p, true, false);  // knows of the store before it is seen
  return v;
}
inline void store_system(uint32_t* p, uint32_t v) {
  if (emulated::watch.atomic) emulated::watch.atomic(p, false, true);
  __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

namespace emulated {
template <class... Parameters, class... Arguments>
void put_grid(bool together, dim3 grid, dim3 block, size_t shared_bytes, Stream stream, void (*kernel)(Parameters...),
              Arguments... arguments) {
  put(stream, [=, values = std::tuple<Parameters...>(static_cast<Parameters>(arguments)...)] {
    run_grid(
        grid, block, shared_bytes, [&] { std::apply(kernel, values); }, together);
  });
}
}  // namespace emulated
template <class... Parameters, class... Arguments>
void launch(dim3 grid, dim3 block, size_t shared_bytes, Stream stream, void (*kernel)(Parameters...),
            Arguments... arguments) {
  emulated::put_grid(false, grid, block, shared_bytes, stream, kernel, arguments...);
}
template <class... Parameters, class... Arguments>
void launch_together(dim3 grid, dim3 block, size_t shared_bytes, Stream stream, void (*kernel)(Parameters...),
                     Arguments... arguments) {
  emulated::put_grid(true, grid, block, shared_bytes, stream, kernel, arguments...);
}

inline int device_count(std::string&) { return 1; }
inline std::string device_name(int, int& capability) {
  capability = 0;
  return "emulated";
}
inline void choose_device(int) {}
inline size_t free_memory() {
  return static_cast<size_t>(sysconf(_SC_AVPHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

inline void* allocate(size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, 256, bytes ? bytes : 1)) throw std::bad_alloc();
  return p;
}
inline void release(void* p) {  // waits for all work, as cudaFree does
  finish_all();
  std::free(p);
}
inline void* allocate_pinned(size_t bytes) { return allocate(bytes); }
inline void release_pinned(void* p) { release(p); }
inline void register_pinned(void*, size_t) {}
inline void unregister(void*) {}
inline void copy(void* to, const void* from, size_t bytes, Stream stream) {
  if (!bytes) return;
  emulated::put(stream, [=] { std::memcpy(to, from, bytes); });
}
inline void copy_rows(void* to, size_t to_stride, const void* from, size_t from_stride, size_t bytes, size_t rows,
                      Stream stream) {
  emulated::put(stream, [=] {
    for (size_t r = 0; r < rows; ++r)
      std::memcpy(static_cast<char*>(to) + r * to_stride, static_cast<const char*>(from) + r * from_stride, bytes);
  });
}
inline void clear(void* at, size_t bytes, Stream stream) {
  if (!bytes) return;
  emulated::put(stream, [=] { std::memset(at, 0, bytes); });
}

}  // namespace simt
