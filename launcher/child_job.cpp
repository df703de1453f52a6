#include "launcher/child_job.h"

#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <iterator>

#include "runtime/base/error.h"

namespace kt {
namespace {

// A file without a name, for what a job says on stderr.
class ErrorFile {
 public:
  ErrorFile() : file_(std::tmpfile()) {
    if (!file_) fail(kExitTryAgain, "a file for a job's messages cannot be made");
  }
  ~ErrorFile() { std::fclose(file_); }
  ErrorFile(const ErrorFile&) = delete;
  ErrorFile& operator=(const ErrorFile&) = delete;

  std::string path() const { return fmt::format("/dev/fd/{}", fileno(file_)); }  // for a child
  std::string text() const {
    std::ifstream in(path());
    return {std::istreambuf_iterator<char>(in), {}};
  }

 private:
  std::FILE* file_;
};

}  // namespace

std::string quoted(const std::string& word) {
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

ChildResult run_child(const std::string& launcher, const std::vector<std::string>& arguments) {
  const ErrorFile errors;
  std::string command = launcher;
  for (const std::string& argument : arguments) command += " " + quoted(argument);
  command += " </dev/null 2>" + quoted(errors.path());
  std::FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) fail(kExitTryAgain, "{}: cannot be started", launcher);
  ChildResult result;
  char piece[4096];
  for (size_t n = 0; (n = std::fread(piece, 1, sizeof piece, pipe)) > 0;) result.out.append(piece, n);
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.error = errors.text();
  return result;
}

}  // namespace kt
