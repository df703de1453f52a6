#include "runtime/serve/http/grammar_desk.h"

#include <fmt/format.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <stop_token>
#include <utility>
#include <vector>

#include "runtime/text/grammars/grammar.h"

namespace kt {
namespace {

using Grammars = std::vector<std::shared_ptr<const Grammar>>;

OrError<Grammars> compile_all(const CompileGrammar& compile, const std::vector<GrammarOrder>& orders,
                              const std::stop_token& stop) {
  return or_error([&] {
    Grammars grammars;
    for (const GrammarOrder& order : orders) {
      try {
        grammars.push_back(compile(order.structural_tag, stop));
      } catch (const GrammarError& e) {
        throw BadRequest(order.param, fmt::format("{}: {}", order.param, e.what()), "invalid_grammar");
      }
    }
    return grammars;
  });
}

// Nothing when one of them is not known.
std::optional<Grammars> find_all(const FindGrammar& find, const std::vector<GrammarOrder>& orders) {
  Grammars grammars;
  for (const GrammarOrder& order : orders) {
    grammars.push_back(find ? find(order.structural_tag) : nullptr);
    if (!grammars.back()) return std::nullopt;
  }
  return grammars;
}

ApiError too_late(bool started, const std::string& param, double seconds) {
  if (started)
    return {400, fmt::format("{}: takes more than {:g} s to compile; make it simpler", param, seconds), param,
            "grammar_too_complex"};
  return {503, fmt::format("{}: other requests' grammars are being compiled; try again", param), param, "busy"};
}

}  // namespace

// A job at the desk. All but `orders`, `started` and `nobody_waits` belongs to the io thread.
struct GrammarDesk::Waiting {
  Waiting(boost::asio::io_context& io, Job given, Done then)
      : job(std::move(given)), done(std::move(then)), timer(io), orders(std::exchange(job.grammars, {})) {}

  // The job with its grammars, or why there is none.
  OrError<Job> filled(OrError<Grammars> compiled) {
    if (ApiError* error = std::get_if<ApiError>(&compiled)) return std::move(*error);
    const Grammars& grammars = std::get<Grammars>(compiled);
    for (size_t i = 0; i < orders.size(); ++i) {
      for (size_t r = 0; r < orders[i].count; ++r) job.requests[orders[i].first + r].grammar = grammars[i];
    }
    return std::move(job);
  }

  Job job;
  Done done;
  boost::asio::steady_timer timer;
  const std::vector<GrammarOrder> orders;
  std::atomic<bool> started = false;
  std::stop_source nobody_waits;
};

void GrammarDesk::prepare(const CompileGrammar& compile, const FindGrammar& find, Job job, Done done) {
  const auto waiting = std::make_shared<Waiting>(io_, std::move(job), std::move(done));
  waiting_.insert(waiting);
  if (std::optional<Grammars> known = find_all(find, waiting->orders))
    return finish(waiting, waiting->filled(*std::move(known)));
  waiting->timer.expires_after(
      std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(time_limit_s_)));
  waiting->timer.async_wait([this, waiting](boost::system::error_code ec) {
    if (!ec) finish(waiting, too_late(waiting->started, waiting->orders.front().param, time_limit_s_));
  });
  boost::asio::post(threads_, [this, &compile, waiting] {
    const std::stop_token stop = waiting->nobody_waits.get_token();
    if (stop.stop_requested()) return;
    waiting->started = true;
    boost::asio::post(io_, [this, waiting, compiled = compile_all(compile, waiting->orders, stop)]() mutable {
      if (waiting_.contains(waiting)) finish(waiting, waiting->filled(std::move(compiled)));
    });
  });
}

void GrammarDesk::finish(const std::shared_ptr<Waiting>& waiting, OrError<Job> outcome) {
  if (waiting_.erase(waiting) == 0) return;
  waiting->timer.cancel();
  waiting->nobody_waits.request_stop();
  std::exchange(waiting->done, nullptr)(std::move(outcome));
}

void GrammarDesk::stop() {
  threads_.stop();
  for (const auto all = waiting_; const auto& waiting : all)
    finish(waiting, ApiError{503, "the server is shutting down", "", "shutting_down"});
}

}  // namespace kt
