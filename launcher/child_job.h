#pragma once

#include <string>
#include <vector>

namespace kt {

// A job that another program starts, until it has ended.
struct ChildResult {
  int exit_code = 0;       // of the launcher; 128 + N: ended by signal N
  std::string out, error;  // what it wrote
};
// `launcher` is a shell's words, which the arguments follow. Throws Error(kExitTryAgain) when nothing can be started.
ChildResult run_child(const std::string& launcher, const std::vector<std::string>& arguments);

// As a shell takes it for one word.
std::string quoted(const std::string& word);

}  // namespace kt
