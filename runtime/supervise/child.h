#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace kt {

// Starts a command, found as a shell would find it. It has a process group of its own, so that a terminal's Ctrl-C is
// for its parent alone, no standard input, no signals blocked and none of our files; when the calling thread ends,
// however that comes, the system kills it. Throws Error(kExitUsage) where it cannot be run.
pid_t start_child(const std::vector<std::string>& command);

// Its exit code, 128 + n after signal n, once it has ended; never waits.
std::optional<int> exit_code_of(pid_t child);

// From here on processes whose parent ends before them become this one's children, so that they can be found.
void adopt_orphans();

// Kills all of this process's children and theirs, and waits for their end.
void end_children();

}  // namespace kt
