// Streams of the emulated device: a host program that does not wait where it has to is found out.

#include "kernels/simt/simt.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace simt {
namespace {

using Pace = Emulation::Pace;

void double_all(const int* in, int* out) { out[threadIdx.x] = 2 * in[threadIdx.x]; }

// In, doubled, and out again, three times through the same memory.
struct Program {
  bool waits = true, reuses_early = false;

  bool right() const {
    const Stream stream = make_stream();
    std::vector<int> host(32), out(32, -1);
    auto* in = static_cast<int*>(allocate(128));
    auto* doubled = static_cast<int*>(allocate(128));
    bool all = true;
    for (int round = 0; round < 3; ++round) {
      for (int i = 0; i < 32; ++i) host[i] = i + 100 * round;
      copy(in, host.data(), 128, stream);
      if (reuses_early) host[5] = 0;
      launch(dim3(1), dim3(32), 0, stream, double_all, in, doubled);
      copy(out.data(), doubled, 128, stream);
      if (waits) finish(stream);
      for (int i = 0; i < 32; ++i) all &= out[i] == 2 * (i + 100 * round);
    }
    finish(stream);
    release_stream(stream);
    release(in);
    release(doubled);
    return all;
  }
};

class Streams : public testing::Test {
 protected:
  void TearDown() override { emulation = {}; }
  static void set(Pace pace, uint64_t seed = 1) {
    emulation.pace = pace;
    emulation.seed = seed;
  }
  // Of 100 seeds.
  static int wrong(const Program& program) {
    int count = 0;
    for (uint64_t seed = 1; seed <= 100; ++seed) {
      set(Pace::kRandom, seed);
      count += !program.right();
    }
    return count;
  }
};

TEST_F(Streams, ARightProgramIsRightAtEveryPace) {
  for (Pace pace : {Pace::kEager, Pace::kLazy}) {
    set(pace);
    EXPECT_TRUE(Program().right());
  }
  EXPECT_EQ(wrong(Program()), 0);
}

TEST_F(Streams, AMissingWaitAndMemoryUsedTooEarlyShow) {
  const Program hasty{.waits = false}, early{.reuses_early = true};
  set(Pace::kLazy);
  EXPECT_FALSE(hasty.right());
  EXPECT_FALSE(early.right());
  EXPECT_GT(wrong(hasty), 50);
  EXPECT_GT(wrong(early), 50);
  set(Pace::kEager);
  EXPECT_TRUE(hasty.right());
}

TEST_F(Streams, MemoryIsGivenBackWhenAllWorkIsDone) {
  set(Pace::kLazy);
  const Stream stream = make_stream();
  void* memory = allocate(256);
  auto* pinned = static_cast<int*>(allocate_pinned(4));
  *pinned = 1;
  clear(memory, 256, stream);
  copy(pinned, memory, 4, stream);
  EXPECT_EQ(*pinned, 1);

  release(memory);

  EXPECT_EQ(*pinned, 0);
  release_pinned(pinned);
  release_stream(stream);
}

// What fails is told when the host waits, and what comes behind it is not done.
TEST_F(Streams, AFailedLaunchIsToldByTheNextWait) {
  set(Pace::kLazy);
  const Stream stream = make_stream();
  int after = 0;
  const int one = 1;
  launch(
      dim3(1), dim3(32), 0, stream, +[] {
        if (threadIdx.x) __syncwarp();
      });
  copy(&after, &one, sizeof one, stream);

  EXPECT_THROW(finish(stream), std::runtime_error);
  EXPECT_NO_THROW(finish(stream));

  EXPECT_EQ(after, 0);
  release_stream(stream);
}

TEST_F(Streams, ThreadsWithStreamsOfTheirOwnDoNotDisturbEachOther) {
  for (Pace pace : {Pace::kEager, Pace::kLazy, Pace::kRandom}) {
    set(pace);
    bool right[4] = {};
    std::vector<std::thread> threads;
    for (bool& mine : right)
      threads.emplace_back([&mine] {
        mine = true;
        for (int i = 0; i < 50; ++i) mine &= Program().right();
      });
    for (std::thread& t : threads) t.join();
    for (bool one : right) EXPECT_TRUE(one);
  }
}

}  // namespace
}  // namespace simt
