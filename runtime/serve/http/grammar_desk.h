#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <memory>
#include <unordered_set>

#include "runtime/serve/errors.h"
#include "runtime/serve/service.h"

namespace kt {

// Has the grammars of jobs compiled on threads of its own, so that neither the io thread nor those that read requests
// wait for them. A job whose grammars are all known already does not wait for others' to be compiled. One that waits
// for too long is refused, and the compiling for it is stopped.
class GrammarDesk {
 public:
  using Done = std::function<void(OrError<Job>)>;

  // time_limit_s: from prepare() to done().
  GrammarDesk(boost::asio::io_context& io, int threads, double time_limit_s)
      : io_(io), threads_(static_cast<size_t>(threads)), time_limit_s_(time_limit_s) {}

  // Fills in the grammars of the job's requests; then, or when one is refused, calls `done` once. On the io thread,
  // like `done`. `compile` outlives the desk; `find` may be empty.
  void prepare(const CompileGrammar& compile, const FindGrammar& find, Job job, Done done);

  // Refuses all that wait. On the io thread.
  void stop();

  // After stop(): waits for the grammars that are being compiled.
  void join() { threads_.join(); }

 private:
  struct Waiting;

  void finish(const std::shared_ptr<Waiting>& waiting, OrError<Job> outcome);

  boost::asio::io_context& io_;
  boost::asio::thread_pool threads_;
  const double time_limit_s_;
  std::unordered_set<std::shared_ptr<Waiting>> waiting_;
};

}  // namespace kt
