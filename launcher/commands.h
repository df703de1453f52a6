#pragma once

// The commands of `ktmpi`; main.cpp holds the table. argv[0] is the command's own name. Each returns the exit code and
// may throw kt::Error, which main prints as one block.

namespace kt {

int serve_command(int argc, char** argv);
int convert_command(int argc, char** argv);
int tokenize_command(int argc, char** argv);
int template_command(int argc, char** argv);
int parse_command(int argc, char** argv);
int chat_command(int argc, char** argv);
int placement_command(int argc, char** argv);
int plan_command(int argc, char** argv);
int version_command(int argc, char** argv);

int bench_command(int argc, char** argv);  // finds one of:
int bench_kernels_command(int argc, char** argv);
int bench_serve_command(int argc, char** argv);
int bench_step_command(int argc, char** argv);

}  // namespace kt
