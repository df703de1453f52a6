#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "runtime/comm/transport.h"

namespace kt {

// A rank that is gone, or ends the job.
struct Loss {
  int rank = 0;
  std::optional<int> exit_code;  // with which it said that it ends the job; null: nobody was told
};

struct LifelineOptions {
  std::string interfaces = {};                   // as meet_at_rank_0 has them
  std::chrono::duration<double> silence_s = {};  // a rank that says nothing for so long is lost; zero: never
};

// A TCP connection between rank 0 and every other rank, beside MPI, which is silent while a step blocks it. Over it the
// ranks tell each other a few times a second how their work goes on, and the kernel tells when a process or a machine
// is gone, and which; silence tells of those that are frozen or cut off. Rank 0 listens only until all ranks have come,
// who show that they are of the job; on the machine's own address where there is one machine.
class Lifeline {
 public:
  // Called once, on the lifeline's own thread: on rank 0 with the first rank that is lost, elsewhere with rank 0.
  using OnLoss = std::function<void(const Loss& loss)>;
  // On rank 0, before that: the ranks that leave with one that is gone, itself among them, while the others go on;
  // none: all end. Elsewhere: rank 0 has said that all go on without `rank`; what it returns means nothing.
  using GoOn = std::function<std::vector<int>(int rank)>;

  // All ranks call it at the same point. Throws Error(kExitUsage) when rank 0 cannot be reached.
  Lifeline(Transport& transport, OnLoss on_loss, LifelineOptions options = {});
  // All ranks end it at about the same time; that is no loss.
  ~Lifeline();
  Lifeline(const Lifeline&) = delete;
  Lifeline& operator=(const Lifeline&) = delete;

  // Changes while this rank works (ThreadPool::pulse); what it refers to outlives the lifeline.
  void set_pulse(std::function<int64_t()> pulse);
  // On rank 0: changes while any rank works, seen a quarter of a second later. Any thread may ask.
  int64_t pulse() const;

  // Until then every loss is the end.
  void set_go_on(GoOn go_on);

  // What each rank is, for names.
  void set_roles(std::vector<std::string> roles);
  const std::string& host(int rank) const { return hosts_.at(static_cast<size_t>(rank)); }
  std::string name(int rank) const;  // "rank 2 (expert, host n2)"
  bool lost() const { return lost_; }
  // The ranks from which nothing has come for so many seconds, by name: frozen, or cut off.
  std::vector<std::string> silent(double seconds) const;

  // Tells all ranks that this one ends the job, and why is in its log. From any thread.
  void end_job(int exit_code);

 private:
  struct Line;
  void run();
  bool look(Line& line);  // false: nothing more comes
  void tell(Line& line, int64_t number);
  void lose(const Loss& loss);
  bool goes_on_without(int rank);
  void lose_silent(std::chrono::steady_clock::duration passed);

  const int rank_;
  OnLoss on_loss_;
  const LifelineOptions options_;
  std::vector<std::string> hosts_;
  std::vector<std::unique_ptr<Line>> lines_;
  std::atomic<bool> lost_ = false, leaving_ = false;
  mutable std::mutex mutex_;  // guards all below, and what the lines have heard and say
  std::function<int64_t()> pulse_;
  std::vector<std::string> roles_;
  GoOn go_on_;
  std::jthread thread_;
};

}  // namespace kt
