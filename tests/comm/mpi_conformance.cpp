// The tests of the transports between processes; every rank runs this program under mpirun (see CMakeLists.txt):
//   comm_mpi_test [mpi|ucx] [--piece BYTES | --abort | --lose]
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <string>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/comm/faulty.h"
#include "runtime/comm/transports.h"
#include "tests/comm/conformance.h"
#include "tests/comm/doors.h"

namespace kt {
namespace {

Transport* world = nullptr;  // gtest's tests take no arguments
bool over_ucx = false;

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(JobTransport, KeepsTheTransportsPromises) { testing::check_transport(*world); }

TEST(JobTransport, KeepsTheDoorsPromises) { testing::check_doors(*world); }

TEST(JobTransport, KeepsTheDoorsPromisesWhateverIsDelayedOrOvertaken) {
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

TEST(JobTransport, UsesNoCpuWhileItWaits) {
  double best = 1;  // of three: what else runs on the machine makes every look for messages dearer
  for (int i = 0; i < 3; ++i) best = std::min(best, share_while_waiting(1.0));

  const std::vector<int> nodes = world->nodes();
  const bool is_woken = over_ucx || std::count(nodes.begin(), nodes.end(), nodes[0]) == world->size();
  EXPECT_LT(best, is_woken ? 0.02 : 0.15) << "rank " << world->rank();  // by MPI nobody rings across machines
  RecordProperty("cpu_percent", std::to_string(100 * best));
  world->barrier();
}

// The last rank, `gone`, is killed; the others, in whatever they do with it, learn that it is gone. Returns what they
// did not.
std::vector<std::string> learn_of_a_loss(Transport& t, int gone, Ticket early) {
  std::vector<std::byte> got, room(3u << 20);
  std::vector<std::string> wrong;
  const auto expect = [&](bool right, const char* what) {
    if (!right) wrong.push_back(what);
  };
  const auto says_gone = [&](const auto& call) {
    try {
      call();
    } catch (const Error& e) {
      return std::string(e.what()).find(fmt::format("rank {} is gone", gone)) != std::string::npos;
    }
    return false;
  };
  const auto is_lost = [&](Ticket ticket) {
    const Fault fault = finish(t, ticket, gone);
    return fault.kind == Fault::lost && fault.rank == gone;
  };
  expect(is_lost(early), "a receive that was posted before");
  expect(says_gone([&] { t.receive(gone, Tag::control, got); }), "a message that never comes");
  expect(t.ready(gone, Tag::control), "ready, so that nobody waits");
  expect(is_lost(t.post_receive(gone, Tag::rows, room)), "a receive that is posted later");
  expect(is_lost(t.post_send(gone, Tag::rows, room)), "a large send");
  expect(says_gone([&] {
           t.send(gone, Tag::rows, room);
           t.finish_sends();
         }),
         "a message to it");
  if (t.rank() == 0) {
    t.receive(gone, Tag::report, got);
    expect(got.size() == 10, "its last words");
  }
  for (int r = 0; r < gone; ++r) t.send(r, Tag::logits, room);
  for (int r = 0; r < gone; ++r) t.receive(r, Tag::logits, got);
  t.finish_sends();
  expect(got.size() == room.size(), "messages of the others");
  return wrong;
}

// The last rank is killed in the middle of a large transfer to each of the others, which go on without it.
std::vector<std::string> lose_the_last_rank(Transport& t) {
  const int gone = t.size() - 1;
  std::vector<std::byte> room(3u << 20), cut(64u << 20), got;
  const Ticket early = t.post_receive(gone, Tag::results, room, true);
  t.barrier();
  if (t.rank() == gone) {
    t.send(0, Tag::report, std::as_bytes(std::span("last words", 10)));
    t.finish_sends();
    for (int r = 0; r < gone; ++r) t.post_send(r, Tag::weights, cut);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    std::raise(SIGKILL);
  }
  t.post_receive(gone, Tag::weights, cut);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  std::vector<std::string> wrong;
  if (over_ucx) wrong = learn_of_a_loss(t, gone, early);  // MPI does not tell
  t.interrupt();
  t.leave_out(std::span(&gone, 1));
  if (!over_ucx && !t.look(early).fault) wrong.push_back("a receive that was posted before");
  for (int r = 0; r < gone; ++r) t.send(r, Tag::logits, room);
  for (int r = 0; r < gone; ++r) t.receive(r, Tag::logits, got);
  leave_together(t);
  if (got.size() != room.size()) wrong.push_back("that it can go on");
  return wrong;
}

}  // namespace
}  // namespace kt

int main(int argc, char** argv) {
  const auto given = [&](const char* word) {
    return std::find_if(argv + 1, argv + argc, [&](const char* a) { return std::strcmp(a, word) == 0; }) - argv;
  };
  kt::over_ucx = given("ucx") < argc;
  // Small pieces, so that small messages are cut as large ones are.
  const size_t piece = given("--piece") + 1 < argc ? std::stoul(argv[given("--piece") + 1]) : kt::kMpiPiece;
  const auto job = kt::make_mpi_transport(&argc, &argv, piece);
  const auto own = kt::make_step_transport(kt::over_ucx ? "ucx" : "mpi", *job);
  kt::Transport& transport = own ? *own : *job;
  // For the test that looks at mpirun's exit code: the last rank gives up while the others wait for it.
  if (given("--abort") < argc) {
    std::vector<std::byte> got;
    if (transport.rank() == transport.size() - 1) transport.abort(kt::kExitWatchdog);
    transport.receive(transport.size() - 1, kt::Tag::control, got);
  }
  if (given("--lose") < argc) {
    const std::vector<std::string> wrong = kt::lose_the_last_rank(transport);
    fmt::print("rank {} {}: {}\n", transport.rank(), wrong.empty() ? "goes on" : "was not told of",
               fmt::join(wrong, "; "));
    std::fflush(stdout);
    std::_Exit(0);  // MPI's end would wait for the rank that is gone
  }
  kt::world = &transport;
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
