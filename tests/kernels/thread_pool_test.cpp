#include "kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace kt {
namespace {

TEST(ThreadPool, PulseChangesWithEveryPartAndRestsBetweenJobs) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::set<int64_t> seen = {pool.pulse()};

    for (int job = 0; job < 3; ++job) {
      pool.run(1, [&](int64_t) { seen.insert(pool.pulse()); });
      seen.insert(pool.pulse());
      pool.run(50, [](int64_t) {});
      EXPECT_TRUE(seen.insert(pool.pulse()).second) << threads << " threads, job " << job;
      EXPECT_EQ(pool.pulse(), *seen.rbegin()) << "nobody works";
      pool.beat();
      EXPECT_TRUE(seen.insert(pool.pulse()).second);
    }
  }
}

TEST(ThreadPool, ASingleThreadsPulseIsSeenInsideAJob) {
  ThreadPool pool(1);
  std::set<int64_t> seen;

  pool.run(16, [&](int64_t) { seen.insert(pool.pulse()); });

  EXPECT_EQ(seen.size(), 16u);
}

}  // namespace
}  // namespace kt
