#include "runtime/supervise/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "runtime/base/error.h"

namespace kt {
namespace {

// In the child of a process with several threads: system calls alone until exec.
[[noreturn]] void become(char* const* argv, pid_t parent, int report) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(128 + SIGKILL);  // it has ended already
  const int nothing = open("/dev/null", O_RDONLY);
  if (nothing > STDIN_FILENO) dup2(nothing, STDIN_FILENO);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
  execvp(argv[0], argv);
  const int error = errno;
  [[maybe_unused]] const auto written = write(report, &error, sizeof error);
  _exit(127);
}

std::vector<pid_t> children() {
  std::ifstream list("/proc/thread-self/children");  // all are started by this thread, or adopted by the first
  std::vector<pid_t> found;
  for (pid_t child = 0; list >> child;) found.push_back(child);
  return found;
}

}  // namespace

pid_t start_child(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  std::array<int, 2> report{};
  if (pipe2(report.data(), O_CLOEXEC) != 0) fail(kExitTryAgain, "a pipe: {}", std::strerror(errno));
  const pid_t parent = getpid(), child = fork();
  if (child == 0) become(argv.data(), parent, report[1]);
  const int fork_error = errno;
  close(report[1]);
  int error = 0;
  const bool failed = child > 0 && read(report[0], &error, sizeof error) == sizeof error;
  close(report[0]);
  if (child < 0) fail(kExitTryAgain, "{}: cannot be started: {}", command.front(), std::strerror(fork_error));
  if (!failed) return child;
  waitpid(child, nullptr, 0);
  fail(kExitUsage, "{}: cannot be run: {}", command.front(), std::strerror(error));
}

std::optional<int> exit_code_of(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, WNOHANG) != child) return std::nullopt;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void adopt_orphans() { prctl(PR_SET_CHILD_SUBREAPER, 1); }

void end_children() {
  for (std::vector<pid_t> left = children(); !left.empty(); left = children()) {
    for (const pid_t child : left) kill(child, SIGKILL);
    for (const pid_t child : left) waitpid(child, nullptr, 0);  // theirs are ours now
  }
}

}  // namespace kt
