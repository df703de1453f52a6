// The MPI transport's tests; every rank runs this program under mpirun (see CMakeLists.txt).
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/comm/faulty.h"
#include "tests/comm/conformance.h"
#include "tests/comm/doors.h"

namespace kt {
namespace {

Transport* world = nullptr;  // gtest's tests take no arguments

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(MpiTransport, KeepsTheTransportsPromises) { testing::check_transport(*world); }

TEST(MpiTransport, KeepsTheDoorsPromises) { testing::check_doors(*world); }

TEST(MpiTransport, KeepsTheDoorsPromisesWhateverIsDelayedOrOvertaken) {
  const auto faulty = make_faulty(*world, {.seed = 5, .delay = 0.02, .reorder = 0.3});
  testing::check_doors(*faulty);
}

// The share of a core that this rank uses while it waits for rank 0, which only sleeps.
double share_while_waiting(double seconds) {
  std::vector<std::byte> got;
  world->barrier();
  const double before = cpu_seconds();
  if (world->rank() == 0) {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    for (int to = 1; to < world->size(); ++to) world->send(to, Tag::control, {});
    world->finish_sends();
  } else {
    world->receive(0, Tag::control, got);
  }
  return (cpu_seconds() - before) / seconds;
}

TEST(MpiTransport, UsesNoCpuWhileItWaits) {
  double best = 1;  // of three: what else runs on the machine makes every look for messages dearer
  for (int i = 0; i < 3; ++i) best = std::min(best, share_while_waiting(1.0));

  const std::vector<int> nodes = world->nodes();
  const bool one_machine = std::count(nodes.begin(), nodes.end(), nodes[0]) == world->size();
  EXPECT_LT(best, one_machine ? 0.02 : 0.15) << "rank " << world->rank();  // nobody rings across machines
  RecordProperty("cpu_percent", std::to_string(100 * best));
  world->barrier();
}

}  // namespace
}  // namespace kt

int main(int argc, char** argv) {
  // Small pieces, so that small messages are cut as large ones are.
  const size_t piece = argc == 3 && std::strcmp(argv[1], "--piece") == 0 ? std::stoul(argv[2]) : kt::kMpiPiece;
  const auto transport = kt::make_mpi_transport(&argc, &argv, piece);
  // For the test that looks at mpirun's exit code: the last rank gives up while the others wait for it.
  if (argc == 2 && std::strcmp(argv[1], "--abort") == 0) {
    std::vector<std::byte> got;
    if (transport->rank() == transport->size() - 1) transport->abort(kt::kExitWatchdog);
    transport->receive(transport->size() - 1, kt::Tag::control, got);
  }
  kt::world = transport.get();
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
