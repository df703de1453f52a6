#pragma once

// The commands of `ktmpi`; main.cpp holds the table. argv[0] is the command's own name. Each returns the exit code and
// may throw kt::Error, which main prints as one block.

namespace kt {

int serve_command(int argc, char** argv);
int tokenize_command(int argc, char** argv);
int template_command(int argc, char** argv);
int version_command(int argc, char** argv);

}  // namespace kt
