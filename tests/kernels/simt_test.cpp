// The emulation of CUDA's blocks, copies and matrix instructions, on kernels of a few lines each.

#include "kernels/simt/simt.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/numeric.h"

namespace simt {
namespace {

class Emulated : public testing::Test {
 protected:
  void TearDown() override { emulation = {}; }

  // In every order of threads and with cp.async early, late and between.
  template <class Run>
  static void in_every_schedule(const Run& run) {
    using enum Emulation::Order;
    using enum Emulation::Copies;
    for (const Emulation& e : std::vector<Emulation>{{.order = kAscending, .copies = kLate},
                                                     {.order = kDescending, .copies = kEarly},
                                                     {.order = kAscending, .copies = kEarly, .workers = 2},
                                                     {.order = kShuffled, .copies = kRandom, .seed = 1},
                                                     {.order = kShuffled, .copies = kRandom, .seed = 2}}) {
      emulation = e;
      run();
    }
  }
};

// ---- threads

TEST_F(Emulated, EveryThreadOfEveryBlockRunsOnceAndKnowsItsPlace) {
  in_every_schedule([] {
    std::vector<int> seen(2 * 3 * 2 * 4 * 3 * 2);

    launch(
        dim3(2, 3, 2), dim3(4, 3, 2), 0, nullptr,
        +[](int* p) {
          const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
          const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
          ++p[block * blockDim.x * blockDim.y * blockDim.z + thread];
        },
        seen.data());

    for (int count : seen) ASSERT_EQ(count, 1);
  });
}

struct Reversed {
  int of[96];
};

TEST_F(Emulated, ABarrierMakesSharedMemoryVisible) {
  in_every_schedule([] {
    std::vector<int> out(2 * 96);

    launch(
        dim3(2), dim3(96), 96 * sizeof(int), nullptr,
        +[](int* p) {
          const int i = static_cast<int>(threadIdx.x);
          int* dynamic = dynamic_shared<int>();
          auto& fixed = shared<Reversed>();
          dynamic[i] = i * 10;
          __syncthreads();
          fixed.of[95 - i] = dynamic[(i + 40) % 96];
          __syncthreads();
          p[96 * blockIdx.x + threadIdx.x] = fixed.of[i];
        },
        out.data());

    for (size_t i = 0; i < 192; ++i) ASSERT_EQ(out[i], static_cast<int>((95 - i % 96 + 40) % 96 * 10));
  });
}

// What a missing barrier would read, and what nobody has written.
TEST_F(Emulated, SharedMemoryStartsAsNan) {
  std::vector<float> out(64, 1.0f);

  launch(
      dim3(1), dim3(32), 128, nullptr,
      +[](float* p) {
        p[threadIdx.x] = dynamic_shared<float>()[threadIdx.x];
        p[32 + threadIdx.x] = static_cast<float>(shared<float4>().y);
      },
      out.data());

  for (float x : out) EXPECT_TRUE(std::isnan(x));
}

TEST_F(Emulated, AMissingBarrierShowsInSomeOrder) {
  int wrong = 0;
  in_every_schedule([&] {
    std::vector<int> out(64);
    launch(
        dim3(1), dim3(64), 64 * sizeof(int), nullptr,
        +[](int* p) {
          int* at = dynamic_shared<int>();
          at[threadIdx.x] = static_cast<int>(threadIdx.x);
          p[threadIdx.x] = at[threadIdx.x ^ 33];
        },
        out.data());
    for (int i = 0; i < 64; ++i) wrong += out[i] != (i ^ 33);
  });
  EXPECT_GT(wrong, 0);
}

TEST_F(Emulated, ThreadsMayLeaveBeforeABarrier) {
  in_every_schedule([] {
    std::vector<int> out(64, -1);

    launch(
        dim3(1), dim3(64), 256, nullptr,
        +[](int* p) {
          if (threadIdx.x % 3 == 0) return;
          int* at = dynamic_shared<int>();
          at[threadIdx.x] = 5;
          __syncthreads();
          p[threadIdx.x] = at[threadIdx.x % 3 == 1 ? threadIdx.x + 1 : threadIdx.x - 1];
        },
        out.data());

    for (size_t i = 0; i < 62; ++i) ASSERT_EQ(out[i], i % 3 ? 5 : -1);
  });
}

TEST_F(Emulated, ShufflesAndVotes) {
  in_every_schedule([] {
    std::vector<int> out(32 * 7);

    launch(
        dim3(1), dim3(32), 0, nullptr,
        +[](int* p) {
          const int i = static_cast<int>(threadIdx.x);
          p[i] = __shfl_sync(~0u, i * 10, 3);
          p[32 + i] = __shfl_xor_sync(~0u, i, 5);
          p[64 + i] = __shfl_down_sync(~0u, i, 2, 8);
          p[96 + i] = __shfl_up_sync(~0u, i, 1);
          p[128 + i] = static_cast<int>(__ballot_sync(~0u, i % 3 == 0));
          p[160 + i] = i < 16 ? __all_sync(0xffffu, i < 16) : __any_sync(0xffff0000u, i == 40);
          p[192 + i] = static_cast<int>(__shfl_xor_sync(~0u, uint64_t{1} << i, 1) >> 1);
        },
        out.data());

    for (int i = 0; i < 32; ++i) {
      const auto of = [&](int part) { return out[32 * part + i]; };
      ASSERT_EQ(of(0), 30);
      ASSERT_EQ(of(1), i ^ 5);
      ASSERT_EQ(of(2), i % 8 < 6 ? i + 2 : i);
      ASSERT_EQ(of(3), i ? i - 1 : 0);
      ASSERT_EQ(of(4), 0x49249249);
      ASSERT_EQ(of(5), i < 16);
      ASSERT_EQ(of(6), static_cast<int>((uint64_t{1} << (i ^ 1)) >> 1));
    }
  });
}

void add_atomically(int* sum, double* exact) {
  atomicAdd(sum, static_cast<int>(threadIdx.x));
  atomicAdd(exact, 0.25);
}
TEST_F(Emulated, AtomicsOfAllBlocksAddUp) {
  in_every_schedule([] {
    std::vector<int> sum(1);
    std::vector<double> exact(1);

    launch(dim3(9), dim3(33), 0, nullptr, add_atomically, sum.data(), exact.data());

    ASSERT_EQ(sum[0], 9 * 33 * 16);
    ASSERT_EQ(exact[0], 9 * 33 * 0.25);
  });
}

TEST_F(Emulated, DenormalsCountAsZeroOnlyInKernels) {
  std::vector<float> x(2, 1e-38f);
  launch(
      dim3(1), dim3(1), 0, nullptr, +[](float* p) { p[1] = p[0] * 0.01f; }, x.data());
  EXPECT_EQ(x[1], 0.0f);
  volatile float small = x[0];
  EXPECT_NE(small * 0.01f, 0.0f);
}

void meet_three_times(uint32_t* arrived, int* place, int* sums) {
  for (int round = 0; round < 3; ++round) {
    if (threadIdx.x == 0) {
      place[blockIdx.x] = round * 10 + static_cast<int>(blockIdx.x);
      __threadfence();
      atomicAdd(arrived + round, 1u);
      while (load_system(arrived + round) < gridDim.x) {
      }
      for (int b = 0; b < 4 && round == 2; ++b) sums[blockIdx.x] += place[b];
    }
    __syncthreads();
  }
}
// A barrier of the whole grid, three times.
TEST_F(Emulated, BlocksThatRunTogetherCanWaitForEachOther) {
  std::vector<uint32_t> arrived(3);
  std::vector<int> place(4), sums(4);

  launch_together(dim3(4), dim3(32), 0, nullptr, meet_three_times, arrived.data(), place.data(), sums.data());

  for (int s : sums) EXPECT_EQ(s, 20 + 21 + 22 + 23);
}

// ---- what is undefined in CUDA ends with a message

void expect_failure(void (*kernel)(int*), dim3 block, const std::string& part) {
  std::vector<int> memory(2048);
  try {
    launch(dim3(1), block, 1024, nullptr, kernel, memory.data());
    ADD_FAILURE() << "expected: " << part;
  } catch (const std::exception& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST_F(Emulated, ThreadsThatDoNotMeetAreReported) {
  const auto some_reach_a_barrier = [](int*) { threadIdx.x < 5 ? __syncthreads() : __syncwarp(); };
  expect_failure(some_reach_a_barrier, 32, "no thread can go on");
  const auto two_barriers = [](int*) {
    if (threadIdx.x < 5)
      __syncthreads();
    else
      __syncthreads();
  };
  expect_failure(two_barriers, 32, "meets");
  const auto shuffle_without_lane_7 = [](int* p) {
    if (threadIdx.x != 7) p[threadIdx.x] = __shfl_xor_sync(~0u, 1, 1);
  };
  expect_failure(shuffle_without_lane_7, 32, "__shfl_xor_sync");
  const auto shuffle_meets_vote = [](int* p) {
    p[threadIdx.x] = threadIdx.x < 16 ? __shfl_xor_sync(~0u, 1, 1) : __all_sync(~0u, 1);
  };
  expect_failure(shuffle_meets_vote, 32, "meets");
  const auto not_in_its_mask = [](int* p) { p[threadIdx.x] = __shfl_sync(1u, 1, 0); };
  expect_failure(not_in_its_mask, 32, "is not in its own mask");
  const auto half_a_warp_multiplies = [](int*) {
    float d[4] = {};
    multiply_bf16(d, {0, 0, 0, 0}, {0, 0});
  };
  expect_failure(half_a_warp_multiplies, 16, "a warp that is not whole");
}

TEST_F(Emulated, MistakesWithCopiesAreReported) {
  const auto nobody_waits = [](int* p) {
    copy16(dynamic_shared<uint4>() + threadIdx.x, p + 4 * threadIdx.x);
    commit();
  };
  expect_failure(nobody_waits, 32, "has not waited for");
  const auto misaligned = [](int* p) { copy16(dynamic_shared<uint4>(), p + 1); };
  expect_failure(misaligned, 32, "not aligned");
  const auto misaligned_row = [](int*) {
    uint32_t r[4];
    load_matrices(r, dynamic_shared<uint16_t>() + threadIdx.x * 4);
  };
  expect_failure(misaligned_row, 32, "not aligned");
}

TEST_F(Emulated, LaunchesThatNoDeviceTakesAreReported) {
  const auto nothing = +[] {};
  EXPECT_THROW(launch(dim3(0), dim3(32), 0, nullptr, nothing), std::runtime_error);
  EXPECT_THROW(launch(dim3(1, 65536), dim3(32), 0, nullptr, nothing), std::runtime_error);
  EXPECT_THROW(launch(dim3(1), dim3(1025), 0, nullptr, nothing), std::runtime_error);
  EXPECT_THROW(launch(dim3(1), dim3(32), 228 * 1024, nullptr, nothing), std::runtime_error);
}

// ---- copies and matrices

void copy_three_groups(const float* in, float* out) {
  float* at = dynamic_shared<float>();
  const unsigned i = threadIdx.x * 4;
  for (unsigned group = 0; group < 3; ++group) {
    copy16(at + 128 * group + i, in + 128 * group + i, threadIdx.x % 4 != group);
    commit();
  }
  wait<1>();
  __syncthreads();
  for (unsigned k = 0; k < 8; ++k) out[8 * threadIdx.x + k] = at[8 * threadIdx.x + k];
  wait<0>();
  for (unsigned k = 0; k < 4; ++k) out[256 + i + k] = at[256 + i + k];
}
// Three groups, of which the last may still be on its way when the others are read; what is not used is zero.
TEST_F(Emulated, CopiesAreThereWhenTheirGroupIsWaitedFor) {
  in_every_schedule([] {
    std::vector<float> in(3 * 128), out(3 * 128, -1.0f);
    for (size_t i = 0; i < 384; ++i) in[i] = static_cast<float>(i);

    launch(dim3(1), dim3(32), 3 * 512, nullptr, copy_three_groups, in.data(), out.data());

    for (size_t i = 0; i < 384; ++i) ASSERT_EQ(out[i], i / 4 % 4 == i / 128 ? 0.0f : in[i]) << i;
  });
}

void load_both_ways(uint32_t* out) {
  auto* memory = dynamic_shared<uint16_t>();  // row r: 8r .. 8r + 7
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) memory[i] = static_cast<uint16_t>(i);
  __syncthreads();
  uint32_t plain[4], transposed[4];
  load_matrices(plain, memory + lane * 8);
  load_matrices_transposed(transposed, memory + lane * 8);
  for (int m = 0; m < 4; ++m) out[m * 32 + lane] = plain[m], out[128 + m * 32 + lane] = transposed[m];
}
TEST_F(Emulated, LoadMatricesGivesWordJOfRowIToLane4IPlusJ) {
  std::vector<uint32_t> out(256);

  launch(dim3(1), dim3(32), 512, nullptr, load_both_ways, out.data());

  for (uint32_t m = 0; m < 4; ++m)
    for (uint32_t i = 0; i < 8; ++i)
      for (uint32_t j = 0; j < 4; ++j) {
        const uint32_t first = (m * 8 + i) * 8 + 2 * j, across = (m * 8 + 2 * j) * 8 + i;
        EXPECT_EQ(out[m * 32 + 4 * i + j], first | (first + 1) << 16);
        EXPECT_EQ(out[128 + m * 32 + 4 * i + j], across | (across + 8) << 16);
      }
}

// a (16, 16), b (8, 16), out (16, 8), first index fastest
void multiply_fragments(const uint16_t* a, const uint16_t* b, float* out) {
  const int t = static_cast<int>(threadIdx.x) % 4, u = static_cast<int>(threadIdx.x) / 4;
  uint32_t fa[4] = {}, fb[2] = {};
  float d[4] = {};
  for (int v = 0; v < 8; ++v)
    fa[v / 2] |= static_cast<uint32_t>(a[32 * t + u + 16 * (v % 2) + 8 * (v / 2 % 2) + 128 * (v / 4)]) << 16 * (v % 2);
  for (int v = 0; v < 4; ++v)
    fb[v / 2] |= static_cast<uint32_t>(b[16 * t + u + 8 * (v % 2) + 64 * (v / 2)]) << 16 * (v % 2);
  multiply_bf16(d, fa, fb);
  for (int v = 0; v < 4; ++v) out[32 * t + u + 16 * (v % 2) + 8 * (v / 2)] = d[v];
}
// The layouts as the strides by which CUTLASS describes this instruction: lane 4u + t, register half v.
TEST_F(Emulated, FragmentsOfAProductAreLaidOutAsPublished) {
  std::vector<uint16_t> a(256), b(128);
  for (int i = 0; i < 256; ++i) a[i] = kt::to_bf16(static_cast<float>((i * 37 + i / 16) % 13 - 6));
  for (int i = 0; i < 128; ++i) b[i] = kt::to_bf16(static_cast<float>((i * 29 + i / 8) % 11 - 5));
  for (TensorCore core : {TensorCore::kAmpere, TensorCore::kHopper, TensorCore::kFusedAdd}) {
    emulation.tensor_core = core;
    std::vector<float> out(128);

    launch(dim3(1), dim3(32), 0, nullptr, multiply_fragments, a.data(), b.data(), out.data());

    for (size_t m = 0; m < 16; ++m)
      for (size_t n = 0; n < 8; ++n) {
        float sum = 0;  // exact: small integers
        for (size_t k = 0; k < 16; ++k) sum += kt::to_float(a[m + 16 * k]) * kt::to_float(b[n + 8 * k]);
        EXPECT_EQ(out[m + 16 * n], sum);
      }
  }
}

// 1, and 0.75 2^-24 sixteen times.
TEST_F(Emulated, SumsOfTensorCoresAreCutOffNotRounded) {
  uint16_t a[16][16] = {}, b[16][8] = {};
  for (int k = 0; k < 16; ++k) a[0][k] = kt::to_bf16(0x1p-12f), b[k][0] = kt::to_bf16(0x1.8p-13f);
  const auto product = [&](TensorCore core, float start) {
    float d[16][8] = {};
    d[0][0] = start;
    multiply(core, a, b, d);
    return d[0][0];
  };
  EXPECT_EQ(product(TensorCore::kAmpere, 1.0f), 1.0f);             // nothing is left of each
  EXPECT_EQ(product(TensorCore::kHopper, 1.0f), 1.0f + 0x1p-21f);  // 0.5 2^-24 is
  EXPECT_EQ(product(TensorCore::kFusedAdd, 1.0f), 1.0f);
  EXPECT_EQ(product(TensorCore::kAmpere, 0.0f), 0x1.8p-21f);
}

}  // namespace
}  // namespace simt
