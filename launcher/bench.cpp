// `ktmpi bench NAME`: one benchmark each, JSON Lines on stdout.

#include <cstdio>
#include <string_view>
#include <vector>

#include "launcher/commands.h"
#include "launcher/help_text.h"
#include "runtime/base/error.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

constexpr Command kBenchmarks[] = {
    {"kernels", bench_kernels_command, "expert layers of one shape and format, against the hardware's limits"},
    {"step", bench_step_command, "prefill and decode on the ranks that serve would use, and where the time goes", true},
    {"scale", bench_scale_command, "steps on several numbers of ranks: speedup, efficiency, and what is predicted",
     true},
    {"dispatch", bench_dispatch_command,
     "rows out to another rank and sums back, by the transport that serve would use"},
    {"serve", bench_serve_command, "a running server under load: latencies and throughput"},
};

}  // namespace

std::span<const Command> all_benchmarks() { return kBenchmarks; }

int bench_command(int argc, char** argv) {
  const std::string_view name = argc > 1 ? argv[1] : "--help";
  std::vector<std::string_view> names;
  for (const Command& b : kBenchmarks) {
    if (b.name == name) return b.run(argc - 1, argv + 1);
    names.push_back(b.name);
  }
  if (name != "--help" && name != "-h")
    fail(kExitUsage, "unknown benchmark '{}'; the nearest one is '{}'\nktmpi bench --help lists them", name,
         nearest(name, names));
  std::string help = "Usage: ktmpi bench NAME [OPTION ...]\n\n";
  for (const Command& b : kBenchmarks) help += fmt::format("  {:<8}  {}\n", b.name, b.help);
  print_help(help + "\nktmpi bench NAME --help says more about one of them.\n");
  return kExitOk;
}

}  // namespace kt
