#pragma once

// One kernel source for two machines. nvcc gets CUDA plus the few names below; a C++ compiler gets the same names, and
// CUDA's own, as a block of fibers on the CPU (emulated.h). A kernel that uses only what is listed here runs on both:
//
//   threadIdx blockIdx blockDim gridDim  __syncthreads __syncwarp  __shfl_sync __shfl_xor_sync __shfl_down_sync
//   __shfl_up_sync __ballot_sync __any_sync __all_sync  atomicAdd atomicMax atomicExch atomicCAS
//   __threadfence __threadfence_block __threadfence_system  fmaf sqrtf fminf fmaxf rintf fabsf
//   __float_as_uint __uint_as_float __byte_perm  uint2 uint4 float2 float4 dim3
//
//   shared<T>()            one T per block and per type, not initialised
//   dynamic_shared<T>()    the launch's shared_bytes, 128-byte aligned
//   copy16(to, from, use)  cp.async of 16 bytes to shared memory, zeros if !use; commit(); wait<n>(): all but n groups
//   load_matrices(r, row)  ldmatrix.x4; load_matrices_transposed
//   multiply_bf16(d, a, b) mma.m16n8k16, d += a b in float
//   multiply_int8(d, a, b) mma.m16n8k32 of signed bytes, d += a b in int32
//   fma_bf16(a, b, c)      a b + c of both bf16 of a word, where that is a bf16: nothing may be rounded
//   float_from_bf16 ...    conversions, bit for bit the hardware's
//   load_system store_system  flags shared with the host and other devices: acquire and release
//   launch(grid, block, shared_bytes, stream, kernel, arguments...)
//   launch_together(...)   the same, all blocks at once, so that they may wait for each other's flags
//
// And of memory, for the host: allocate, allocate_pinned (which kernels may touch too), release, release_pinned,
// register_pinned, unregister, copy, copy_rows, clear, finish (until a stream is done), is_done, make_stream,
// release_stream; device_count, device_name, choose_device (all of the above then is the chosen one's, in every
// thread), free_memory.
//
// Not to be used, because their bits are not the CPU's: __expf, rsqrtf, __fdividef and other approximations; products
// and sums that the compiler may contract (nvcc gets -fmad=false, so write fmaf where one is meant).

#include <cstddef>
#include <cstdint>

// Both can be in one program: kernels live in namespace kt::SIMT_TABLE.

#ifndef __CUDACC__
#define SIMT_TABLE cuda_emulated
#include "kernels/simt/emulated.h"
#else
#define SIMT_TABLE cuda

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <atomic>
#include <string>
#include <tuple>

#include "kernels/device_fault.h"

namespace simt {

using Stream = cudaStream_t;

template <class T>
__device__ __forceinline__ T& shared() {
  __shared__ T storage;
  return storage;
}
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char simt_dynamic[];
  return reinterpret_cast<T*>(simt_dynamic);
}

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void copy16(void* to, const void* from, bool use = true) {
  const int bytes = use ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
__device__ __forceinline__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void multiply_int8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ uint32_t fma_bf16(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

__device__ __forceinline__ float float_from_bf16(uint16_t x) { return __uint_as_float(static_cast<uint32_t>(x) << 16); }
__device__ __forceinline__ uint16_t bf16_from_float(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
__device__ __forceinline__ float float_from_half(uint16_t x) { return __half2float(__ushort_as_half(x)); }
__device__ __forceinline__ uint16_t half_from_float(float x) { return __half_as_ushort(__float2half_rn(x)); }
__device__ __forceinline__ float float_from_e4m3(uint8_t x) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(x, __NV_E4M3)));
}
__device__ __forceinline__ uint8_t e4m3_from_float(float x) {
  return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}

__device__ __forceinline__ uint32_t load_system(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void store_system(uint32_t* p, uint32_t v) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw kt::DeviceFault(std::string(what) + ": " + cudaGetErrorString(error));
}

// 0: `why`, as CUDA says.
inline int device_count(std::string& why) {
  int count = 0, driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) return count;
  const bool none = cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0;
  why = none ? "there is no NVIDIA driver" : cudaGetErrorString(error);
  return 0;
}
// That no other device has: a card, or a part of one, is the same to every process. `capability`: 90 is 9.0.
inline std::string device_name(int index, int& capability) {
  cudaDeviceProp p;
  check(cudaGetDeviceProperties(&p, index), "device");
  capability = 10 * p.major + p.minor;
  std::string id;
  for (const char c : p.uuid.bytes) {
    static constexpr char kDigits[] = "0123456789abcdef";
    id += kDigits[static_cast<unsigned char>(c) >> 4];
    id += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return std::string(p.name) + " " + id;
}
// CUDA has a current device for each thread; a process here has one.
inline std::atomic<int> chosen_device{0};
inline void use_chosen_device() {
  thread_local int current = 0;
  const int chosen = chosen_device.load(std::memory_order_relaxed);
  if (current == chosen) return;
  check(cudaSetDevice(chosen), "device");
  current = chosen;
}
inline void choose_device(int index) {
  chosen_device = index;
  use_chosen_device();
}
inline size_t free_memory() {
  use_chosen_device();
  size_t free = 0, all = 0;
  check(cudaMemGetInfo(&free, &all), "device memory");
  return free;
}

template <class... Parameters, class... Arguments>
void launch(dim3 grid, dim3 block, size_t shared_bytes, Stream stream, void (*kernel)(Parameters...),
            Arguments... arguments) {
  use_chosen_device();
  if (shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "shared memory of a kernel");
  // clang-format off
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
  // clang-format on
  check(cudaGetLastError(), "launch");
}
template <class... Parameters, class... Arguments>
void launch_together(dim3 grid, dim3 block, size_t shared_bytes, Stream stream, void (*kernel)(Parameters...),
                     Arguments... arguments) {
  use_chosen_device();
  std::tuple<Parameters...> values(static_cast<Parameters>(arguments)...);
  const auto start = [&](Parameters&... value) {
    void* pointers[] = {&value...};
    check(cudaLaunchCooperativeKernel(kernel, grid, block, pointers, shared_bytes, stream), "cooperative launch");
  };
  std::apply(start, values);
}

inline Stream make_stream() {
  use_chosen_device();
  Stream stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  return stream;
}
inline void release_stream(Stream stream) { cudaStreamDestroy(stream); }
inline void finish(Stream stream) {
  use_chosen_device();
  check(cudaStreamSynchronize(stream), "the device");
}
inline bool is_done(Stream stream) {
  use_chosen_device();
  const cudaError_t state = cudaStreamQuery(stream);
  if (state != cudaErrorNotReady) check(state, "the device");
  return state == cudaSuccess;
}
inline void* allocate(size_t bytes) {
  use_chosen_device();
  void* p;
  check(cudaMalloc(&p, bytes), "device memory");
  return p;
}
inline void release(void* p) { cudaFree(p); }
inline void* allocate_pinned(size_t bytes) {
  use_chosen_device();
  void* p;
  check(cudaHostAlloc(&p, bytes, cudaHostAllocPortable | cudaHostAllocMapped), "pinned memory");
  return p;
}
inline void release_pinned(void* p) { cudaFreeHost(p); }
inline void register_pinned(void* p, size_t bytes) {
  use_chosen_device();
  check(cudaHostRegister(p, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped), "memory shared with the device");
}
inline void unregister(void* p) { cudaHostUnregister(p); }
inline void copy(void* to, const void* from, size_t bytes, Stream stream) {
  use_chosen_device();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "copy");
}
inline void copy_rows(void* to, size_t to_stride, const void* from, size_t from_stride, size_t bytes, size_t rows,
                      Stream stream) {
  use_chosen_device();
  check(cudaMemcpy2DAsync(to, to_stride, from, from_stride, bytes, rows, cudaMemcpyDefault, stream), "copy");
}
inline void clear(void* at, size_t bytes, Stream stream) {
  use_chosen_device();
  check(cudaMemsetAsync(at, 0, bytes, stream), "clear");
}

}  // namespace simt

#endif
