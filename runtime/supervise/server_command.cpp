#include "runtime/supervise/server_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr std::string_view kProgram = "ktmpi";

bool is_program(const std::string& word) {
  if (word == kProgram) return true;
  std::error_code ignored;
  return word.ends_with("/" + std::string(kProgram)) && std::filesystem::is_regular_file(word, ignored);
}

}  // namespace

ServerCommand parse_server_command(std::span<const std::string> words) {
  const auto program = std::find_if(words.begin(), words.end(), is_program);
  if (program == words.end())
    fail(kExitUsage, "expected the command of a server, such as mpirun -np 3 ktmpi --config FILE, found {}",
         words.empty() ? "none" : fmt::format("'{}', which names no ktmpi", fmt::join(words, " ")));
  std::vector<std::string> arguments(program + 1, words.end());
  if (!arguments.empty() && !arguments.front().starts_with("-")) {
    if (arguments.front() != "serve")
      fail(kExitUsage, "expected a command that serves, found ktmpi {}", arguments.front());
    arguments.erase(arguments.begin());
  }
  return {std::vector(words.begin(), words.end()), static_cast<size_t>(program - words.begin()), std::move(arguments)};
}

}  // namespace kt
