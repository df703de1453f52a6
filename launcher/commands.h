#pragma once

#include <span>
#include <string_view>

namespace kt {

// A command of `ktmpi`. argv[0] is its own name. It returns the exit code and may throw kt::Error, which main prints as
// one block.
struct Command {
  std::string_view name;
  int (*run)(int argc, char** argv);
  std::string_view help;
  bool takes_serves_options = false;
};
std::span<const Command> all_commands();    // main.cpp
std::span<const Command> all_benchmarks();  // bench.cpp: the names that follow "bench"

int serve_command(int argc, char** argv);
int convert_command(int argc, char** argv);
int tokenize_command(int argc, char** argv);
int template_command(int argc, char** argv);
int parse_command(int argc, char** argv);
int chat_command(int argc, char** argv);
int placement_command(int argc, char** argv);
int plan_command(int argc, char** argv);
int simulate_command(int argc, char** argv);
int completion_command(int argc, char** argv);
int man_command(int argc, char** argv);
int doctor_command(int argc, char** argv);
int up_command(int argc, char** argv);
int version_command(int argc, char** argv);

int bench_command(int argc, char** argv);  // finds one of:
int bench_dispatch_command(int argc, char** argv);
int bench_kernels_command(int argc, char** argv);
int bench_scale_command(int argc, char** argv);
int bench_serve_command(int argc, char** argv);
int bench_step_command(int argc, char** argv);

}  // namespace kt
