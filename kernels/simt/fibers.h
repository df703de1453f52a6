#pragma once

// A block of CUDA threads as fibers of one OS thread. A fiber runs until it has to meet others: at the block's barrier,
// or with lanes of its warp for a shuffle, ldmatrix or mma, where the last to arrive does the work for all. Between
// meetings fibers run one after the other, so a thread that does not wait for another one sees what was there before,
// and shared memory starts as NaN. A warp goes on as long as it can, so warps are far apart. What CUDA leaves undefined
// ends the launch with a message.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/simt/tensor_core.h"

struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  size_t count() const { return static_cast<size_t>(x) * y * z; }
};

namespace simt {

// How launches run. Set between launches only.
struct Emulation {
  enum class Order { kAscending, kDescending, kShuffled } order = Order::kAscending;  // of threads and blocks
  enum class Copies { kLate, kEarly, kRandom } copies = Copies::kLate;  // cp.async copies when waited for, or at once
  uint64_t seed = 1;
  int workers = 1;  // OS threads that run blocks
  TensorCore tensor_core = TensorCore::kAmpere;
  size_t shared_limit = 227 * 1024;  // of a block; 163 KiB on sm_80, 99 KiB on sm_86, sm_89 and sm_120
  bool flush_denormals = true;       // as nvcc's -ftz=true
  enum class Pace { kEager, kLazy, kRandom } pace = Pace::kEager;  // of streams: at once, when waited for, or between
};
inline Emulation emulation;

namespace emulated {

struct Place {  // in the source
  const char* file = "";
  int line = 0;
  bool operator==(const Place&) const = default;
};

struct Fiber {
  void* stack_pointer = nullptr;
  uint3 index;  // threadIdx
  int number = 0, lane = 0, warp = 0;
  bool exited = false;
  const char* meeting = nullptr;  // where it waits; nullptr: it can run
  Place place;
  uint32_t mask = 0;
  void* slot = nullptr;  // a meeting's arguments and results, on its stack
  struct Copy {
    void* to;  // nullptr: done
    const void* from;
    bool use;
    int group;
  };
  std::vector<Copy> copies;  // cp.async, not waited for
  int group = 0;             // that the next commit closes
  // For races.cpp:
  uint32_t warp_epoch = 0;  // barriers and __syncwarps passed
  bool fenced = false;      // by a __threadfence
  const void* last_atomic = nullptr;
};

// What kernels may touch besides shared memory, [begin, end), and who is told of it; for races.cpp.
inline std::vector<std::pair<const void*, const void*>> device_memory;
struct Watch {
  void (*access)(const void* p, size_t bytes, bool write) = nullptr;
  void (*atomic)(const void* p, bool acquire, bool release) = nullptr;
  void (*fence)() = nullptr;
};
inline Watch watch;

// Runs blocks one after the other on its OS thread.
class Worker {
 public:
  static constexpr size_t kStack = 64 * 1024, kMostThreads = 1024, kStaticLimit = 48 * 1024;

  Worker();
  ~Worker();
  Worker(const Worker&) = delete;

  dim3 grid, size;
  uint3 block;                           // blockIdx
  uint32_t block_number = 0, epoch = 0;  // epoch: barriers that the block has passed

  void run(uint32_t number, size_t dynamic_bytes, const std::function<void()>& kernel);

  // The rest is for the running fiber.

  // Lanes of a warp that mask names meet; `all` does the work for them, with their slots.
  using All = void (*)(Fiber* lanes, uint32_t mask);
  void meet(const char* meeting, uint32_t mask, void* slot, All all, Place place);
  void barrier(Place place);
  void yield();  // lets others run; other blocks, if there are none here
  // Ends the block. The fiber's stack is abandoned, so longer messages are made by a function: nothing of theirs is
  // left there.
  template <class Message>
  [[noreturn]] void fail(const Message& message) {
    if constexpr (std::is_invocable_v<Message>)
      error_ = message();
    else
      error_ = message;
    end_with_error();
  }
  bool whole_warp() const;
  void* static_memory(const void* key, size_t bytes, size_t alignment);
  void* dynamic_memory() const { return dynamic_.get(); }
  bool is_shared(const void* p) const;
  uint64_t random();

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  using Memory = std::unique_ptr<std::byte, Free>;
  struct Static {
    const void* key;
    size_t bytes;
    Memory memory;
  };
  struct Warp {
    uint32_t present = 0, live = 0, waiting = 0, ready = 0;  // lanes
  };

  static Memory allocate(size_t bytes, size_t alignment);
  void start(int i);
  static void begin();
  [[noreturn]] void finish();
  void switch_to(void** save, void* load, const Fiber* to);  // to: nullptr for run()
  [[noreturn]] void leave(Fiber* to);
  [[noreturn]] void end_with_error();
  void go(Fiber& from, Fiber& to);
  void wake(Fiber& f);
  Fiber* take(bool other_warp = false);
  void open_barrier(Fiber* me);
  std::string stuck() const;

  std::byte* stacks_;
  void* main_ = nullptr;  // run()'s stack
  const void* main_bottom_ = nullptr;
  size_t main_size_ = 0;
  const std::function<void()>* kernel_ = nullptr;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  int ready_ = 0, alive_ = 0, at_barrier_ = 0;
  size_t last_warp_ = 0;  // that take() chose
  std::vector<Static> static_;
  Memory dynamic_;
  size_t dynamic_bytes_ = 0;
  uint64_t random_ = 1;
  std::string error_;
};

inline constinit thread_local Fiber* self = nullptr;
inline constinit thread_local Worker* worker = nullptr;
extern std::atomic<uint32_t> launches;  // so far

// All blocks of a grid. together: at the same time, each on an OS thread of its own (a cooperative launch).
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel, bool together);
void fence();

}  // namespace emulated
}  // namespace simt
