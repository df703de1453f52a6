#include <gtest/gtest.h>

#include <cstdio>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/comm/transport.h"
#include "tests/comm/conformance.h"

namespace kt {
namespace {

class LocalTransports : public ::testing::TestWithParam<int> {};

TEST_P(LocalTransports, KeepTheTransportsPromises) {
  auto transports = make_local_transports(GetParam());
  std::vector<std::thread> threads;
  for (auto& transport : transports) threads.emplace_back([&] { testing::check_transport(*transport); });
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(Sizes, LocalTransports, ::testing::Values(1, 2, 3, 4, 5, 6));

TEST(LocalTransport, OutlivesTheRankItSendsTo) {
  auto transports = make_local_transports(2);
  transports[1].reset();

  transports[0]->send(1, Tag::control, {});

  transports[0]->finish_sends();
}

TEST(LocalTransport, RefusesAWorldWithoutRanks) { EXPECT_THROW(make_local_transports(0), Error); }

TEST(LocalTransportDeathTest, AbortEndsTheProcessWithTheCode) {
  EXPECT_EXIT(make_local_transports(1)[0]->abort(kExitWatchdog), ::testing::ExitedWithCode(kExitWatchdog), "");
}

}  // namespace
}  // namespace kt
