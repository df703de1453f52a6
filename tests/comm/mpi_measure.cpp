// Measures the MPI transport under mpirun: one JSON line per quantity, of rank 0.
//   mpirun -np 4 build/release/comm_mpi_measure
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "runtime/comm/group.h"

namespace kt {
namespace {

using Bytes = std::vector<std::byte>;

double now_us() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void report(Transport& t, const char* what, size_t bytes, const std::vector<double>& us) {
  if (t.rank() != 0) return;
  const auto [low, high] = std::minmax_element(us.begin(), us.end());
  fmt::print(R"({{"what":"{}","ranks":{},"bytes":{},"us_median":{:.2f},"us_min":{:.2f},"us_max":{:.2f}}})"
             "\n",
             what, t.size(), bytes, median(us), *low, *high);
  std::fflush(stdout);
}

// Half a round trip between ranks 0 and 1; the other ranks wait, asleep.
void ping_pong(Transport& t, size_t bytes, int rounds) {
  const Bytes sent(bytes, std::byte{1});
  Bytes got;
  std::vector<double> us;
  for (int i = 0; i < rounds && t.rank() < 2; ++i) {
    const double start = now_us();
    if (t.rank() == 0) t.send(1, Tag::rows, sent);
    t.receive(1 - t.rank(), Tag::rows, got);
    if (t.rank() == 1) t.send(0, Tag::rows, sent);
    t.finish_sends();
    us.push_back((now_us() - start) / 2);
  }
  t.barrier();
  report(t, "ping-pong", bytes, us);
}

void all_to_all(Transport& t, size_t bytes, int rounds) {
  const Bytes sent(bytes, std::byte{1});
  Bytes got;
  std::vector<double> us;
  for (int i = 0; i < rounds; ++i) {
    const double start = now_us();
    for (int d = 1; d < t.size(); ++d) t.send((t.rank() + d) % t.size(), Tag::rows, sent);
    for (int d = 1; d < t.size(); ++d) t.receive((t.rank() + t.size() - d) % t.size(), Tag::rows, got);
    t.finish_sends();
    us.push_back(now_us() - start);
  }
  t.barrier();
  report(t, "all-to-all", bytes, us);
}

void all_reduce(Transport& t, size_t count, int rounds) {
  Group::Members all;
  for (int i = 0; i < t.size(); ++i) all.ranks.push_back(i);
  const size_t bytes = count * sizeof(double);
  Group group(t, all, Group::share(t, all, bytes), bytes);
  const std::span<double> values(reinterpret_cast<double*>(group.values().data()), count);
  ThreadPool pool(1);
  std::vector<double> us;
  for (int i = 0; i < rounds; ++i) {
    const double start = now_us();
    check(group.sum(values, pool), "sum");
    us.push_back(now_us() - start);
  }
  t.barrier();
  report(t, "all-reduce", bytes, us);
}

double cpu_us() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return 1e6 * static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void idle(Transport& t, double seconds) {
  Bytes got;
  t.barrier();
  const double before = cpu_us();
  if (t.rank() == 0) std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  if (t.rank() == 0) {
    for (int to = 1; to < t.size(); ++to) t.send(to, Tag::control, {});
  } else {
    t.receive(0, Tag::control, got);
  }
  const double used = cpu_us() - before;
  t.finish_sends();
  t.barrier();
  fmt::print(R"({{"what":"idle","rank":{},"percent_of_core":{:.4f}}})"
             "\n",
             t.rank(), used / seconds / 1e4);
}

}  // namespace
}  // namespace kt

int main(int argc, char** argv) {
  const auto t = kt::make_mpi_transport(&argc, &argv);
  for (const size_t bytes : {8u, 8192u, 65'536u}) kt::ping_pong(*t, bytes, 3000);
  kt::ping_pong(*t, 32u << 20, 20);
  for (const size_t bytes : {8192u, 65'536u}) kt::all_to_all(*t, bytes, 2000);
  for (const size_t count : {1024u, 4096u, 65'536u}) kt::all_reduce(*t, count, 500);
  kt::idle(*t, 5.0);
  return 0;
}
