#include "kernels/simt/fibers.h"

#include <sys/mman.h>
#include <xmmintrin.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>

namespace simt::emulated {
namespace {

constexpr const char* kBarrier = "__syncthreads";

bool descending() { return emulation.order == Emulation::Order::kDescending; }

std::string where(const Fiber& f) {
  const char* name = std::strrchr(f.place.file, '/');
  return "thread " + std::to_string(f.number) + " at " + (f.meeting ? f.meeting : "no meeting") + " (" +
         (name ? name + 1 : f.place.file) + ":" + std::to_string(f.place.line) + ")";
}

}  // namespace

// Stores the running fiber's registers on its stack and goes on with another one's.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, . - simt_switch
)");

// AddressSanitizer has to be told which stack is used, and that nothing is left of frames that were left for good.
#ifdef __SANITIZE_ADDRESS__
extern "C" void __asan_unpoison_memory_region(const volatile void* p, size_t size);
extern "C" void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void* fake_stack, const void** old_bottom, size_t* old_size);
#else
static void __asan_unpoison_memory_region(const volatile void*, size_t) {}
static void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

std::atomic<uint32_t> launches{0};

Worker::Worker()
    : stacks_(static_cast<std::byte*>(mmap(nullptr, kStack * kMostThreads, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
  if (stacks_ == MAP_FAILED) throw std::runtime_error("no memory for fibers");
}
Worker::~Worker() { munmap(stacks_, kStack * kMostThreads); }

void Worker::run(uint32_t number, size_t dynamic_bytes, const std::function<void()>& kernel) {
  block = {number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y)};
  block_number = number;
  epoch = 0;
  kernel_ = &kernel;
  random_ = emulation.seed * 0x9e3779b97f4a7c15u + number + 1;
  error_.clear();
  static_.clear();
  dynamic_ = allocate(dynamic_bytes_ = dynamic_bytes, 128);
  alive_ = static_cast<int>(size.count());
  at_barrier_ = 0;
  fibers_.resize(size.count());
  warps_.assign((size.count() + 31) / 32, {});
  ready_ = 0;
  last_warp_ = descending() ? warps_.size() - 1 : 0;
  for (int i = 0; i < alive_; ++i) start(i);
  worker = this;
  self = take();
  switch_to(&main_, self->stack_pointer, self);
  self = nullptr;
  worker = nullptr;
  if (!error_.empty()) throw std::runtime_error(error_);
}

void Worker::meet(const char* meeting, uint32_t mask, void* slot, All all, Place place) {
  Fiber& me = *self;
  Warp& warp = warps_[me.warp];
  me.meeting = meeting, me.place = place, me.mask = mask, me.slot = slot;
  if (!(mask >> me.lane & 1)) fail([&] { return where(me) + " is not in its own mask"; });
  const uint32_t need = mask & warp.present;
  if (need & ~warp.live) fail([&] { return where(me) + " names a lane that has exited"; });
  warp.waiting |= 1u << me.lane;
  if ((warp.waiting & need) != need) return go(me, *take());
  Fiber* lanes = &fibers_[static_cast<size_t>(me.warp) * 32];
  for (uint32_t left = need; left; left &= left - 1) {
    const Fiber& f = lanes[std::countr_zero(left)];
    if (f.meeting != meeting || f.mask != mask) fail([&] { return where(me) + " meets " + where(f); });
  }
  if (all) all(lanes, need);
  warp.waiting &= ~need;
  me.meeting = nullptr;
  for (uint32_t left = need & ~(1u << me.lane); left; left &= left - 1) wake(lanes[std::countr_zero(left)]);
}
void Worker::barrier(Place place) {
  Fiber& me = *self;
  me.meeting = kBarrier, me.place = place;
  if (++at_barrier_ < alive_) return go(me, *take());
  open_barrier(&me);
}
void Worker::yield() {
  if (!ready_) return std::this_thread::yield();
  Fiber& me = *self;
  Fiber* next = take(true);
  wake(me);
  go(me, *next);
}
void Worker::end_with_error() {
  error_ = "block " + std::to_string(block_number) + ", thread " + std::to_string(self->number) + ": " + error_;
  leave(nullptr);
}
bool Worker::whole_warp() const { return warps_[self->warp].live == ~0u; }

void* Worker::static_memory(const void* key, size_t bytes, size_t alignment) {
  size_t all = bytes;
  for (const Static& s : static_) {
    if (s.key == key) return s.memory.get();
    all += s.bytes;
  }
  if (all > kStaticLimit) fail("more than 48 KiB of static shared memory");
  static_.push_back({key, bytes, allocate(bytes, std::max<size_t>(alignment, 16))});
  return static_.back().memory.get();
}
bool Worker::is_shared(const void* p) const {
  const auto in = [&](const Memory& m, size_t bytes) { return p >= m.get() && p < m.get() + bytes; };
  return in(dynamic_, dynamic_bytes_) ||
         std::any_of(static_.begin(), static_.end(), [&](const Static& s) { return in(s.memory, s.bytes); });
}
Worker::Memory Worker::allocate(size_t bytes, size_t alignment) {
  void* p = nullptr;
  if (posix_memalign(&p, alignment, std::max<size_t>(bytes, 1))) throw std::bad_alloc();
  std::memset(p, 0xff, bytes);  // NaN in every format
  return Memory(static_cast<std::byte*>(p));
}

void Worker::start(int i) {
  Fiber& f = fibers_[i];
  std::vector<Fiber::Copy> room = std::move(f.copies);
  room.clear();
  const auto n = static_cast<unsigned>(i);
  f = Fiber();
  f.index = {n % size.x, n / size.x % size.y, n / (size.x * size.y)};
  f.number = i, f.lane = i % 32, f.warp = i / 32;
  f.copies = std::move(room);
  warps_[f.warp].present = warps_[f.warp].live |= 1u << f.lane;
  wake(f);
  // Stacks begin at different places of a page, or they would share few lines of the cache.
  std::byte* end = stacks_ + static_cast<size_t>(i + 1) * kStack - static_cast<size_t>(i % 32) * 128;
  __asan_unpoison_memory_region(stacks_ + static_cast<size_t>(i) * kStack, kStack);
  auto* top = reinterpret_cast<void**>(end);
  *--top = nullptr;  // where begin() would return to
  *--top = reinterpret_cast<void*>(&Worker::begin);
  f.stack_pointer = top - 6;  // what simt_switch pops
}
void Worker::begin() {
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!worker->main_size_) worker->main_bottom_ = bottom, worker->main_size_ = size;
  (*worker->kernel_)();
  worker->finish();
}
void Worker::finish() {
  Fiber& me = *self;
  if (!me.copies.empty()) fail("ends with copies that it has not waited for");
  me.exited = true;
  Warp& warp = warps_[me.warp];
  warp.live &= ~(1u << me.lane);
  for (uint32_t left = warp.waiting; left; left &= left - 1) {
    const Fiber& f = fibers_[static_cast<size_t>(me.warp) * 32 + static_cast<size_t>(std::countr_zero(left))];
    if (f.mask >> me.lane & 1) fail([&] { return "exits, but " + where(f) + " waits for it"; });
  }
  if (!--alive_) leave(nullptr);
  if (at_barrier_ == alive_) open_barrier(nullptr);  // the hardware too counts only threads that have not exited
  leave(take());
}
void Worker::switch_to(void** save, void* load, const Fiber* to) {
  void *fake = nullptr, *unused;
  if (to)
    __sanitizer_start_switch_fiber(save ? &fake : nullptr, stacks_ + static_cast<size_t>(to->number) * kStack, kStack);
  else
    __sanitizer_start_switch_fiber(nullptr, main_bottom_, main_size_);
  simt_switch(save ? save : &unused, load);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}
void Worker::leave(Fiber* to) {
  if (to) self = to;
  switch_to(nullptr, to ? to->stack_pointer : main_, to);
  __builtin_unreachable();
}
void Worker::go(Fiber& from, Fiber& to) {
  self = &to;
  switch_to(&from.stack_pointer, to.stack_pointer, &to);
}
void Worker::wake(Fiber& f) {
  f.meeting = nullptr;
  warps_[f.warp].ready |= 1u << f.lane;
  ++ready_;
}
Fiber* Worker::take(bool other_warp) {
  if (!ready_) fail([&] { return stuck(); });
  --ready_;
  const bool shuffled = emulation.order == Emulation::Order::kShuffled;
  const size_t n = warps_.size();
  if (other_warp || (shuffled && random() % 8 == 0)) last_warp_ += shuffled ? random() % n : 1;
  while (!warps_[last_warp_ % n].ready) last_warp_ += descending() ? n - 1 : 1;
  last_warp_ %= n;
  uint32_t& lanes = warps_[last_warp_].ready;
  int lane = descending() ? 31 - std::countl_zero(lanes) : std::countr_zero(lanes);
  if (shuffled) {
    const int turn = static_cast<int>(random() % 32);
    lane = (std::countr_zero(std::rotr(lanes, turn)) + turn) % 32;
  }
  lanes &= ~(1u << lane);
  return &fibers_[last_warp_ * 32 + static_cast<size_t>(lane)];
}
uint64_t Worker::random() {  // xorshift64*
  random_ ^= random_ >> 12, random_ ^= random_ << 25, random_ ^= random_ >> 27;
  return random_ * 0x2545f4914f6cdd1du >> 32;
}
void Worker::open_barrier(Fiber* me) {
  at_barrier_ = 0;
  ++epoch;
  const Fiber* first = nullptr;
  const size_t n = fibers_.size();
  for (size_t i = 0; i < n; ++i) {
    Fiber& f = fibers_[descending() ? n - 1 - i : i];
    if (f.exited) continue;
    if (!first) first = &f;
    if (!(f.place == first->place)) fail([&] { return where(f) + " meets " + where(*first); });
    ++f.warp_epoch;
    if (&f != me) wake(f);
  }
  if (me) me->meeting = nullptr;
}
std::string Worker::stuck() const {
  std::string s = "no thread can go on";
  int shown = 0;
  for (const Fiber& f : fibers_)
    if (!f.exited && shown++ < 4) s += "; " + where(f);
  return s + "; " + std::to_string(alive_) + " of " + std::to_string(fibers_.size()) + " are left";
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel, bool together) {
  const size_t blocks = grid.count();
  if (!blocks || !block.count() || block.count() > Worker::kMostThreads || block.z > 64 || grid.y > 65535 ||
      grid.z > 65535)
    throw std::runtime_error("launch: no device takes this grid or block");
  if (shared_bytes > emulation.shared_limit) throw std::runtime_error("launch: too much shared memory");
  ++launches;
  std::vector<uint32_t> order(blocks);
  for (size_t i = 0; i < blocks; ++i) order[i] = static_cast<uint32_t>(descending() ? blocks - 1 - i : i);
  if (emulation.order == Emulation::Order::kShuffled)
    std::shuffle(order.begin(), order.end(), std::mt19937_64(emulation.seed));
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::string error;
  const auto work = [&] {
    static thread_local Worker w;
    const unsigned mode = _mm_getcsr();
    if (emulation.flush_denormals) _mm_setcsr(mode | 0x8040);
    w.grid = grid;
    w.size = block;
    for (size_t i = next++; i < blocks; i = next++) {
      try {
        w.run(order[i], shared_bytes, kernel);
      } catch (const std::exception& e) {
        const std::lock_guard lock(mutex);
        error = e.what();
        next = blocks;
      }
    }
    _mm_setcsr(mode);
  };
  const size_t threads = together ? blocks : std::min(blocks, static_cast<size_t>(emulation.workers));
  std::vector<std::thread> others;
  for (size_t i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (std::thread& t : others) t.join();
  if (!error.empty()) throw std::runtime_error(error);
}
void fence() {
  if (watch.fence) watch.fence();
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

}  // namespace simt::emulated
