// The MPI transport's tests; every rank runs this program under mpirun (see CMakeLists.txt).
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/comm/transport.h"
#include "tests/comm/conformance.h"

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

  EXPECT_LT(best, 0.02) << "rank " << world->rank();
  RecordProperty("cpu_percent", std::to_string(100 * best));
  world->barrier();
}

TEST(MpiTransport, RefusesAMessageThatMpiCannotCount) {
  const std::byte one{};
  EXPECT_THROW(world->send(0, Tag::rows, {&one, size_t{1} << 31}), Error);
}

}  // namespace
}  // namespace kt

int main(int argc, char** argv) {
  const auto transport = kt::make_mpi_transport(&argc, &argv);
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
