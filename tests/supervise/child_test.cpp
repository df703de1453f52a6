#include "runtime/supervise/child.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "tests/refusal_of.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

bool await(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

int end_of(const std::vector<std::string>& command) {
  const pid_t child = start_child(command);
  std::optional<int> code;
  EXPECT_TRUE(await([&] { return (code = exit_code_of(child)).has_value(); }));
  return code.value_or(-1);
}

TEST(Child, EndsWithItsCodeOrItsSignal) {
  EXPECT_EQ(end_of({"true"}), 0);
  EXPECT_EQ(end_of({"sh", "-c", "exit 70"}), 70);
  EXPECT_EQ(end_of({"sh", "-c", "kill -SEGV $$"}), 128 + SIGSEGV);
}

TEST(Child, ACommandThatCannotBeRunIsAnError) {
  const TempFolder folder;
  folder.write("text", "no program");
  for (const std::string& command : {std::string("absent-program"), (folder.path() / "text").string()})
    EXPECT_NE(refusal_of([&] { start_child({command}); }, kExitUsage).find(command + ": cannot be run: "),
              std::string::npos);
}

TEST(Child, HasNoInputNoBlockedSignalsNoneOfOurFilesAndAGroupOfItsOwn) {
  const TempFolder folder;
  const int ours = dup(STDERR_FILENO);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  const std::string script = "cat && ! test -e /proc/self/fd/" + std::to_string(ours) +
                             " && grep -q '^SigBlk:.0*$' /proc/self/status && "
                             "test $(cut -d' ' -f5 /proc/$$/stat) = $$";

  EXPECT_EQ(end_of({"sh", "-c", script}), 0);

  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  close(ours);
}

TEST(Child, DiesWithTheThreadThatStartedIt) {
  pid_t child = 0;
  std::thread([&] { child = start_child({"sleep", "1000"}); }).join();

  std::optional<int> code;
  EXPECT_TRUE(await([&] { return (code = exit_code_of(child)).has_value(); }));
  EXPECT_EQ(code, 128 + SIGKILL);
}

TEST(Child, WhatAChildLeavesBehindIsEndedToo) {
  adopt_orphans();
  const TempFolder folder;
  const std::string file = folder.path() / "pid";
  EXPECT_EQ(end_of({"sh", "-c", "sleep 1000 & echo $! > " + file}), 0);
  pid_t left = 0;
  std::ifstream(file) >> left;
  ASSERT_EQ(kill(left, 0), 0) << "it is still there";

  end_children();

  EXPECT_NE(kill(left, 0), 0);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

}  // namespace
}  // namespace kt
