#pragma once

#include <sys/types.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/descriptor.h"

namespace kt {

// How a supervisor lends the sockets on which it listens to rank 0 of the job that it has started: over a Unix socket,
// whose name ranks find in their environment. Both can accept on them; the lender does while nobody has borrowed them,
// and knows by the same connection that the borrower is ready, or gone. Clients so speak to rank 0 itself.
class PortLender {
 public:
  PortLender();  // names itself in this process's environment

  int door() const { return door_.fd(); }          // readable: somebody asks
  int borrower() const { return borrower_.fd(); }  // readable: hear() has news; -1: nobody

  // Answers who asks. Turned away are other users, and all while there is a borrower: rank 0s of several jobs.
  bool lend(std::span<const int> listeners, int restarts);

  enum class News { none, ready, gone };
  News hear();
  // With which the last borrower has said that its job ends; nothing: it has not said so. Not all launchers pass it on.
  std::optional<int> exit_code() const { return exit_code_; }

  // Kills a borrower that has stayed.
  void evict();

 private:
  Descriptor door_, borrower_;
  pid_t borrower_pid_ = 0;
  std::optional<int> exit_code_;
};

// What rank 0 has borrowed. It is given back by the end of the process.
class PortLoan {
 public:
  PortLoan(Descriptor lender, std::vector<int> listeners, int restarts)
      : lender_(std::move(lender)), listeners_(std::move(listeners)), restarts_(restarts) {}
  const std::vector<int>& listeners() const { return listeners_; }  // for whoever accepts on them to own
  int restarts() const { return restarts_; }                        // of the job, by its supervisor
  void tell_ready() const;
  void tell_exit(int code) const;

 private:
  Descriptor lender_;
  std::vector<int> listeners_;
  int restarts_;
};

// Nothing where no supervisor has started this job. Throws Error(kExitUsage) where it cannot be asked, kExitPort where
// another rank 0 has the port.
std::optional<PortLoan> borrow_port();

}  // namespace kt
