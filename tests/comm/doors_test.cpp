#include "tests/comm/doors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstring>
#include <filesystem>
#include <functional>
#include <numeric>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/comm/faulty.h"
#include "runtime/comm/pieces.h"

namespace kt {
namespace {

using Nodes = std::vector<int>;

// Every rank's part on a thread of its own, with faults if there is a plan.
void on_all(const Nodes& nodes, const FaultPlan* plan, const std::function<void(Transport&)>& part) {
  const auto ranks = make_local_transports(static_cast<int>(nodes.size()), nodes);
  std::vector<std::unique_ptr<Transport>> faulty;
  if (plan)
    for (const auto& rank : ranks) faulty.push_back(make_faulty(*rank, *plan));
  std::vector<std::thread> threads;
  for (auto& rank : plan ? faulty : ranks) threads.emplace_back([&] { part(*rank); });
  for (std::thread& thread : threads) thread.join();
}

class Worlds : public ::testing::TestWithParam<Nodes> {};

TEST_P(Worlds, KeepTheDoorsPromises) {
  on_all(GetParam(), nullptr, [](Transport& transport) { testing::check_doors(transport); });
}

TEST_P(Worlds, KeepTheDoorsPromisesWhateverIsDelayedOrOvertaken) {
  const FaultPlan plan{.seed = 3, .delay = 0.02, .reorder = 0.3};
  on_all(GetParam(), &plan, [](Transport& transport) { testing::check_doors(transport); });
}

constexpr std::chrono::milliseconds kLimit(200);

int faults_of(const Nodes& nodes, const FaultPlan& plan, const std::function<Fault(Transport&)>& part) {
  std::atomic<int> faults{0};
  on_all(nodes, &plan, [&](Transport& transport) {
    if (part(transport)) ++faults;
  });
  return faults;
}

// Nobody waits for ever, and what was taken before was right: run_* checks it.
TEST_P(Worlds, EndWithAFaultWhenSomethingIsLost) {
  for (const uint64_t seed : {1, 2, 3}) {
    const FaultPlan plan{.seed = seed, .drop = 0.7, .spared = static_cast<int>(seed) * 2};
    EXPECT_GT(faults_of(GetParam(), plan, [](Transport& t) { return testing::run_dispatch(t, {}, kLimit); }), 0)
        << seed;
    EXPECT_GT(faults_of(GetParam(), plan, [](Transport& t) { return testing::run_group(t, t.size(), kLimit); }), 0)
        << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Machines, Worlds,
                         ::testing::Values(Nodes{0, 0}, Nodes{0, 1}, Nodes{0, 0, 0}, Nodes{0, 0, 1}, Nodes{0, 1, 2},
                                           Nodes{0, 0, 1, 1}, Nodes{0, 1, 0, 1}, Nodes{0, 0, 0, 0, 0},
                                           Nodes{0, 1, 1, 2, 2}, Nodes{0, 0, 1, 1, 1}));

TEST(Machines, EndWithAFaultWhenATransferIsCut) {
  for (const Nodes& nodes : {Nodes{0, 1}, Nodes{0, 0, 1}, Nodes{0, 1, 2}, Nodes{0, 1, 1, 2, 2}}) {
    for (const uint64_t seed : {1, 2, 3}) {
      const FaultPlan plan{.seed = seed, .cut = 0.7, .spared = static_cast<int>(seed) * 2};
      EXPECT_GT(faults_of(nodes, plan, [](Transport& t) { return testing::run_dispatch(t, {}, kLimit); }), 0) << seed;
      EXPECT_GT(faults_of(nodes, plan, [](Transport& t) { return testing::run_group(t, t.size(), kLimit); }), 0)
          << seed;
    }
  }
}

TEST(Group, FaultsWhenTheRanksDisagreeOnTheLengthOfASum) {
  for (const Nodes& nodes : {Nodes{0, 0}, Nodes{0, 1}})
    on_all(nodes, nullptr, [](Transport& transport) {
      const Group::Members who{.ranks = {0, 1}};
      Group group(transport, who, Group::share(transport, who, 4096), 4096);
      ThreadPool pool(1);
      const std::span<double> values(reinterpret_cast<double*>(group.values().data()), transport.rank() ? 3 : 4);

      const Fault fault = group.sum(values, pool);

      EXPECT_TRUE(fault);
      EXPECT_THROW(check(fault, "sum"), Error);
    });
}

TEST(Pieces, CutWhatMpiCannotCount) {
  const size_t bytes = size_t{37'450} * 7168 * sizeof(double);  // of a prompt's sums, 37,450 rows
  ASSERT_GT(bytes, size_t{INT_MAX});
  size_t all = 0;
  for (size_t i = 0; i < piece_count(bytes, kMpiPiece); ++i) {
    const size_t size = piece_size(bytes, kMpiPiece, i);
    EXPECT_LE(size, size_t{INT_MAX});
    EXPECT_GT(size, 0u);
    all += size;
  }
  EXPECT_EQ(all, bytes);
  EXPECT_EQ(piece_count(0, 10), 1u);
  EXPECT_EQ(piece_count(10, 10), 1u);
  EXPECT_EQ(piece_count(11, 10), 2u);
  EXPECT_EQ(open_piece_count(9, 10), 1u);
  EXPECT_EQ(open_piece_count(10, 10), 2u);  // an empty one ends it
  EXPECT_EQ(piece_size(10, 10, 1), 0u);
}

TEST(WireType, RoundsToWhatTheGridHolds) {
  ThreadPool pool(2);
  std::vector<double> sums;
  for (int i = -50; i < 50; ++i) sums.push_back(to_grid(std::pow(1.7, i) * (i % 2 ? -1 : 1)));
  for (const WireType type : {WireType::float64, WireType::float32, WireType::bf16}) {
    std::vector<std::byte> wire(sums.size() * wire_bytes(type));
    std::vector<double> back(sums.size());
    const int32_t row = 0;

    to_wire(type, sums.data(), static_cast<int64_t>(sums.size()), wire.data(), pool);
    add_sums({type, wire.data(), 100}, &row, 1, static_cast<int>(sums.size()), back.data(), 100, pool);

    const double bound = type == WireType::float64 ? 0.0 : type == WireType::float32 ? 0x1p-24 : 0x1p-8;
    for (size_t i = 0; i < sums.size(); ++i) {
      EXPECT_LE(std::abs(back[i] - sums[i]), bound * std::abs(sums[i])) << i;
      EXPECT_EQ(std::remainder(back[i], 0x1p-32), 0.0) << i;
    }
  }
}

TEST(MemoryFile, HasNoNameThatCouldStayBehind) {
  const MemoryFile file(8192);
  const std::string link = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(file.id()[1]));
  EXPECT_NE(link.find("(deleted)"), std::string::npos) << link;
}

TEST(MemoryFile, IsSeenByAnotherProcessAndOutlivesTheOneThatIsKilled) {
  const MemoryFile file(8192);
  const std::shared_ptr<void> here = file.map();
  auto* number = static_cast<std::atomic<uint64_t>*>(here.get());
  const pid_t child = fork();
  if (child == 0) {
    const MemoryFile other(file.id(), 8192);
    static_cast<std::atomic<uint64_t>*>(other.map().get())->store(42);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(number->load(), 42u);
}

TEST(MemoryFile, SaysWhichProcessDoesNotShareIt) {
  const std::array<long, 2> nobody = {1 << 30, 3};
  EXPECT_THROW(MemoryFile(nobody, 4096), Error);
}

}  // namespace
}  // namespace kt
