#include "runtime/comm/joint_progress.h"

#include <gmock/gmock.h>

#include <atomic>
#include <thread>

namespace kt {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;
using namespace std::chrono_literals;

// What rank 0 says while ranks 0, 1 and 2 have 0, 1 and 2 of their 1, 2 and 3 GB, and then all of them.
TEST(JointProgress, Rank0SaysHowFarAllRanksAreTogether) {
  constexpr size_t kGb = 1'000'000'000;
  const std::vector<std::unique_ptr<Transport>> transports = make_local_transports(3);
  std::atomic<bool> all_loaded = false;
  testing::internal::CaptureStderr();

  std::vector<std::jthread> ranks;
  for (size_t r = 0; r < transports.size(); ++r)
    ranks.emplace_back([&, r] {
      Transport& transport = *transports[r];
      Lifeline lifeline(transport, [](const Loss&) {});
      JointProgress progress(
          transport, lifeline, (r + 1) * kGb, [&, r] { return all_loaded ? (r + 1) * kGb : r * kGb; }, 100ms);
      std::this_thread::sleep_for(2s);  // a pulse is seen a quarter of a second later
      transport.barrier();
      all_loaded = true;
      progress.finish();
      lifeline.set_pulse(nullptr);
      std::this_thread::sleep_for(300ms);
      transport.barrier();
    });
  ranks.clear();

  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, HasSubstr("loading on 3 ranks: 3.0 of 6.0 GB, "));
  EXPECT_THAT(text, ContainsRegex("GB/s, [0-9]+ s left\n"));
  EXPECT_THAT(text, ContainsRegex("loaded on 3 ranks: 6\\.00 GB in [0-9.]+ s"));
  EXPECT_THAT(text.substr(text.find("loaded on")), Not(HasSubstr("loading"))) << "nothing is said after the end";
}

}  // namespace
}  // namespace kt
