#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/serve/http/connection.h"
#include "runtime/serve/http/metrics.h"
#include "runtime/serve/service.h"

namespace kt {

// One request for text from its admission to the last byte of its answer: the link between a Job, the engine and a
// connection. Lives on the io thread; the engine's emissions are posted to it.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  struct Context {
    boost::asio::io_context& io;
    Engine& engine;
    Metrics& metrics;
    const HttpConfig& config;
    std::string_view route;  // "": not for the log
    std::function<void(Exchange&)> on_end;
  };

  Exchange(Context context, std::shared_ptr<Connection> connection, Job job);

  // Gives all of the job to the engine, or nothing of it: then it answers with the reason.
  void start();
  // Ends it with an error answer or event, whatever has come of it.
  void fail(const ApiError& error);
  // By /abort_request: ends what is named `rid`; the client gets the text so far.
  void cancel(const std::string& rid);
  void cancel_all();
  bool has_rid(const std::string& rid) const;
  const std::string& client() const { return job_.client; }

 private:
  using Clock = std::chrono::steady_clock;

  bool admit();
  void begin_stream();
  void take(size_t choice, Emission emission);
  bool hold(size_t choice, Emission& emission);
  void observe(size_t choice, const Emission& emission);
  void end();
  void on_gone();
  void abort_open();
  void close(int status, const std::string& finish_reason, const std::string& error);
  void log_request(int status, const std::string& finish_reason, const std::string& error) const;
  void arm_ping();
  void arm_deadline();

  Context context_;
  std::shared_ptr<Connection> connection_;
  Job job_;
  std::vector<std::string> rids_;
  std::vector<uint64_t> ids_;  // the engine's, one per choice
  std::vector<bool> finished_;
  struct Tokens {
    int prompt = 0, cached = 0, completion = 0;
  };
  std::vector<Tokens> tokens_;                 // one per choice, so far
  std::vector<std::optional<Emission>> held_;  // one per choice: what goes into its next event
  std::vector<int> sent_;                      // one per choice: its completion tokens in events
  size_t open_ = 0;                            // choices that are not finished
  bool cancelled_ = false, done_ = false;
  bool streaming_ = false;     // the status line is out
  std::string finish_reason_;  // of the choice that ended last, for the metrics
  Asked asked_;
  Clock::time_point arrival_;
  double queue_s_ = 0, first_token_s_ = 0;  // of the choice whose first token came first; 0 before that
  std::vector<Clock::time_point> last_token_;
  boost::asio::steady_timer ping_, deadline_;
};

}  // namespace kt
