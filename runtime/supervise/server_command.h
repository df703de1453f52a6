#pragma once

#include <span>
#include <string>
#include <vector>

namespace kt {

// "mpirun -np 3 ktmpi serve --port 1": what starts a server, and what the server is told.
struct ServerCommand {
  std::vector<std::string> words;      // all of them
  size_t program = 0;                  // of them, the server's
  std::vector<std::string> arguments;  // of serve
};

// The server's program is the first word that is "ktmpi", or the path of a file of that name. Throws Error(kExitUsage)
// where there is none, or where it is told to do something else than serve.
ServerCommand parse_server_command(std::span<const std::string> words);

}  // namespace kt
