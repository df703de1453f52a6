#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace kt {

// Exit codes of the process; launchers add their own (137 killed, 139 crashed, 205 lost node).
enum ExitCode : int {
  kExitOk = 0,
  kExitUsage = 2,      // wrong option, configuration or world size
  kExitModel = 64,     // model unreadable
  kExitPort = 69,      // port taken
  kExitPeerLost = 70,  // another rank is gone
  kExitWatchdog = 71,  // no step finished in time
  kExitTryAgain = 75,  // out of a resource that may come back
  kExitDevice = 77,    // device fault
};

// A mistake in the set-up or a broken invariant. The message says what, where, expected, found and what to try;
// main prints it as one block and leaves with `exit_code`. A client's mistake is never an Error (see serve/).
class Error : public std::runtime_error {
 public:
  Error(ExitCode exit_code, const std::string& message) : std::runtime_error(message), exit_code_(exit_code) {}
  ExitCode exit_code() const { return exit_code_; }

 private:
  ExitCode exit_code_;
};

[[noreturn]] inline void fail_with(ExitCode code, fmt::string_view format, fmt::format_args args) {
  throw Error(code, fmt::vformat(format, args));
}
template <class... Args>
[[noreturn]] void fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  fail_with(code, format, fmt::make_format_args(args...));
}

}  // namespace kt
