// Sums over several emulated GPUs, each with a thread of its own, by a library that stands in for NCCL.

#include "kernels/nccl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "kernels/device_fault.h"
#include "tests/kernels/cuda_pair.h"

namespace kt {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using Pace = simt::Emulation::Pace;

class NcclSums : public testing::Test {
 protected:
  static constexpr int kCount = 3, kValues = 1000;
  void SetUp() override { setenv("KTMPI_NCCL_LIBRARY", KTMPI_FAKE_NCCL, 1); }
  void TearDown() override {
    unsetenv("FAKE_NCCL");
    simt::emulation = {};
  }
  // On each of three devices that have joined, on its thread.
  static void on_each(const std::function<void(Device& device, int index)>& work) {
    const std::string id = Nccl::make_id();
    std::vector<std::thread> threads;
    for (int index = 0; index < kCount; ++index)
      threads.emplace_back([&, index] {
        ThreadPool pool(1);
        const auto device =
            find_device_kind("cuda-emulated")->make(*available_ops().front(), pool, /*numa_node=*/-1, index);
        device->join(Nccl::join(id, index, kCount, 10s));
        work(*device, index);
      });
    for (std::thread& t : threads) t.join();
  }
  static std::string told(const std::function<void()>& work) {
    try {
      work();
    } catch (const LostPeer& e) {
      return std::string("lost: ") + e.what();
    } catch (const DeviceFault& e) {
      return e.what();
    }
    return "nothing";
  }
};

// Values are there when the sum is asked for only in the stream's order, and used behind it likewise.
TEST_F(NcclSums, AreInTheStreamsOrderOnEveryRank) {
  for (const Pace pace : {Pace::kEager, Pace::kLazy, Pace::kRandom}) {
    simt::emulation.pace = pace;
    std::vector<double> found[kCount];
    on_each([&](Device& device, int index) {
      const Buffer values = device.take(kValues * sizeof(double)), host = device.take_host(values.size());
      for (int i = 0; i < kValues; ++i) host.as<double>()[i] = (index + 1) * (i - 500) * 0x1p-32;
      for (int round = 0; round < 4; ++round) {
        if (round == 2) device.copy(values.bytes(), host.bytes(), values.size());
        device.sum({values.as<double>(), kValues});
      }
      const Buffer out = device.take_host(values.size());
      device.copy(out.bytes(), values.bytes(), values.size());
      device.wait();
      found[index].assign(out.as<double>(), out.as<double>() + kValues);
    });
    std::vector<double> expected;  // 1 + 2 + 3, and three of them
    for (int i = 0; i < kValues; ++i) expected.push_back(18 * (i - 500) * 0x1p-32);
    for (const auto& of_rank : found) EXPECT_EQ(of_rank, expected) << static_cast<int>(pace);
  }
}

TEST_F(NcclSums, AFaultOfTheNetworkEndsTheWait) {
  setenv("FAKE_NCCL", "break_after=2", 1);
  on_each([](Device& device, int) {
    const Buffer values = device.take(kValues * sizeof(double));
    device.sum({values.as<double>(), kValues});
    device.sum({values.as<double>(), kValues});
    device.wait();
    EXPECT_EQ(told([&] {
                device.sum({values.as<double>(), kValues}), device.wait();
              }),
              "lost: NCCL: a sum: remote process exited or there was a network error: NET/Socket : peer has closed "
              "the connection");
  });
}

TEST_F(NcclSums, JoiningEndsWhenOthersDoNotCome) {
  const std::string id = Nccl::make_id();
  EXPECT_EQ(told([&] { Nccl::join(id, 0, 2, 50ms); }), "lost: NCCL: joining: others have not come within 50 ms");
}

TEST_F(NcclSums, ARefusalIsToldInNcclsWords) {
  setenv("FAKE_NCCL", "refuse=1", 1);
  EXPECT_THAT(told([&] { Nccl::join(Nccl::make_id(), 0, 1, 1s); }),
              HasSubstr("NCCL: joining: invalid usage: Duplicate GPU detected"));
}

TEST_F(NcclSums, DevicesWithoutItSaySo) {
  ThreadPool pool(1);
  const auto cpu = make_cpu_device(*available_ops().front(), pool, -1);
  double value = 1.0;
  EXPECT_EQ(told([&] { cpu->sum({&value, 1}); }), "this device has not joined others");
  EXPECT_FALSE(cpu_kind().has_nccl);
}

}  // namespace
}  // namespace kt
