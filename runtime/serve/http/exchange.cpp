#include "runtime/serve/http/exchange.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <iterator>
#include <utility>

namespace kt {
namespace {

std::string_view name_of(Finish::Kind kind) {
  switch (kind) {
    case Finish::Kind::stop: return "stop";
    case Finish::Kind::length: return "length";
    case Finish::Kind::abort: return "abort";
    case Finish::Kind::timeout: return "timeout";
    default: return "error";
  }
}

template <class T>
void append(std::vector<T>& first, std::vector<T>& next) {
  first.insert(first.end(), std::make_move_iterator(next.begin()), std::make_move_iterator(next.end()));
  next = std::move(first);
}

// Two emissions of one choice as one. What the first one says stays where it is: a slow reader's may be many.
void append(Emission& first, Emission next) {
  first.text += next.text;
  next.text = std::move(first.text);
  append(first.tokens, next.tokens);
  append(first.prompt, next.prompt);
  first = std::move(next);
}

}  // namespace

Exchange::Exchange(Context context, std::shared_ptr<Connection> connection, Job job)
    : context_(std::move(context)),
      connection_(std::move(connection)),
      job_(std::move(job)),
      finished_(job_.requests.size()),
      tokens_(job_.requests.size()),
      held_(job_.requests.size()),
      sent_(job_.requests.size()),
      open_(job_.requests.size()),
      arrival_(Clock::now()),
      last_token_(job_.requests.size(), arrival_),
      ping_(context_.io),
      deadline_(context_.io) {
  for (const GenerateRequest& request : job_.requests) rids_.push_back(request.rid);
}

void Exchange::start() {
  connection_->name_request(job_.id);
  asked_ = connection_->asked();
  if (!admit()) return;
  connection_->set_on_gone([self = shared_from_this()] { self->on_gone(); });
  if (job_.deadline_s > 0) arm_deadline();
  if (!job_.stream) return;
  begin_stream();
  arm_ping();
}

void Exchange::begin_stream() {
  streaming_ = true;
  connection_->begin_stream();
  connection_->send(job_.answer->start());
}

// Emissions may come before submit returns, but they are posted, and this runs on the thread that takes them.
bool Exchange::admit() {
  for (size_t i = 0; i < job_.requests.size(); ++i) {
    auto on_emission = [weak = weak_from_this(), &io = context_.io, i](Emission emission) {
      boost::asio::post(io, [weak, i, emission = std::move(emission)]() mutable {
        if (const auto self = weak.lock()) self->take(i, std::move(emission));
      });
    };
    auto result = context_.engine.submit(std::move(job_.requests[i]), std::move(on_emission));
    if (const Rejection* rejection = std::get_if<Rejection>(&result)) {
      const ApiError error = to_api_error(*rejection, job_.prompt_param);
      if (job_.stream && job_.answer->streams(error)) begin_stream();
      fail(error);
      return false;
    }
    ids_.push_back(std::get<uint64_t>(result));
  }
  return true;
}

void Exchange::take(size_t choice, Emission emission) {
  if (done_) return;
  tokens_[choice] = {emission.prompt_tokens, emission.cached_tokens, emission.completion_tokens};
  observe(choice, emission);
  if (emission.finish) {
    const Finish& finish = *emission.finish;
    finished_[choice] = true;
    --open_;
    finish_reason_ = name_of(finish.kind);
    // An end that the client did not ask for and that is not the text's end: the server's trouble.
    if (finish.kind == Finish::Kind::error) return fail({500, finish.message, "", "engine_error"});
    if (finish.kind == Finish::Kind::timeout) return fail({504, finish.message, "", "timeout"});
    if (finish.kind == Finish::Kind::abort && !cancelled_)
      return fail(
          {503, finish.message.empty() ? "the request was ended by the server" : finish.message, "", "aborted"});
  }
  if (job_.stream && hold(choice, emission)) return;
  const std::string events = job_.answer->take(choice, std::move(emission));
  if (job_.stream && !events.empty()) {
    connection_->send(events);
    if (done_) return;  // the client did not read, and send dropped it
    arm_ping();
  }
  if (open_ == 0) end();
}

// Whether the emission waits for those that follow, to be one event with them: where the client asked for fewer events,
// and where it is so slow that the newest of them is enough. Otherwise it gets what was held before.
bool Exchange::hold(size_t choice, Emission& emission) {
  std::optional<Emission>& held = held_[choice];
  if (held) {
    append(*held, std::move(emission));
    emission = std::move(*held);
    held.reset();
  }
  const int made = emission.completion_tokens;
  const bool wait = (sent_[choice] > 0 && made - sent_[choice] < job_.stream_interval) ||
                    (job_.answer->is_cumulative() && connection_->writing());
  if (!wait || emission.finish) {
    sent_[choice] = made;
    return false;
  }
  held = std::move(emission);
  return true;
}

void Exchange::observe(size_t choice, const Emission& emission) {
  if (emission.tokens.empty()) return;
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - last_token_[choice]).count();
  const bool first = last_token_[choice] == arrival_;
  const size_t count = emission.tokens.size();
  if (first) {
    if (first_token_s_ == 0) first_token_s_ = seconds, queue_s_ = emission.queue_s;
    context_.metrics.queue_time.record(emission.queue_s);
    context_.metrics.time_to_first_token.record(seconds);
  }
  for (size_t i = first ? 1 : 0; i < count; ++i)
    context_.metrics.inter_token_latency.record(first ? 0.0 : seconds / static_cast<double>(count));
  last_token_[choice] = now;
}

void Exchange::end() {
  context_.metrics.e2e_latency.record(std::chrono::duration<double>(Clock::now() - arrival_).count());
  std::string last = job_.answer->finish();
  const auto connection = connection_;
  close(200, finish_reason_, "");
  if (job_.stream) {
    connection->send(last);
    connection->end_stream();
  } else {
    connection->respond({.body = std::move(last)});
  }
}

void Exchange::fail(const ApiError& error) {
  if (done_) return;
  abort_open();
  const auto connection = connection_;
  const std::string events = job_.answer->fail(error);
  close(error_status(error, job_.dialect), "error", word_of(error));
  if (streaming_) {
    connection->send(events.empty() ? error_events(error, job_.dialect) : events);
    connection->end_stream();
  } else {
    HttpResponse response = error_response(error, job_.dialect);
    response.error.reset();  // the request's own line has told of it
    connection->respond(response);
  }
}

void Exchange::on_gone() {
  if (done_) return;
  abort_open();
  close(499, "abort", "");
}

void Exchange::abort_open() {
  for (size_t i = 0; i < ids_.size(); ++i) {
    if (!finished_[i]) context_.engine.abort(ids_[i]);
  }
}

// From here on emissions are not looked at, and the connection is no longer ours.
void Exchange::close(int status, const std::string& finish_reason, const std::string& error) {
  done_ = true;
  ++context_.metrics.requests[{status, finish_reason}];
  if (context_.config.log_requests && !context_.route.empty()) log_request(status, finish_reason, error);
  ping_.cancel();
  deadline_.cancel();
  connection_.reset();
  if (const auto on_end = std::exchange(context_.on_end, nullptr)) on_end(*this);
}

void Exchange::log_request(int status, const std::string& finish_reason, const std::string& error) const {
  Tokens sum;
  for (const Tokens& t : tokens_) {
    sum.prompt += t.prompt;
    sum.cached += t.cached;
    sum.completion += t.completion;
  }
  log_end(asked_, {.id = job_.id,
                   .route = std::string(context_.route),
                   .status = status,
                   .finish_reason = finish_reason,
                   .error = error,
                   .prompt_tokens = sum.prompt,
                   .cached_tokens = sum.cached,
                   .completion_tokens = sum.completion,
                   .seconds = std::chrono::duration<double>(Clock::now() - arrival_).count(),
                   .queue_s = queue_s_,
                   .first_token_s = first_token_s_});
}

void Exchange::cancel(const std::string& rid) {
  if (rid == job_.id) return cancel_all();
  for (size_t i = 0; i < ids_.size(); ++i) {
    if (rids_[i] != rid || finished_[i]) continue;
    cancelled_ = true;
    context_.engine.abort(ids_[i]);
  }
}

void Exchange::cancel_all() {
  cancelled_ = true;
  abort_open();
}

bool Exchange::has_rid(const std::string& rid) const {
  return rid == job_.id || std::find(rids_.begin(), rids_.end(), rid) != rids_.end();
}

void Exchange::arm_ping() {
  const HttpConfig& config = context_.config;
  const double interval_s = job_.dialect == Dialect::anthropic ? config.ping_interval_s : config.comment_interval_s;
  if (done_ || interval_s <= 0) return;
  ping_.expires_after(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(interval_s)));
  ping_.async_wait([self = shared_from_this()](boost::system::error_code ec) {
    if (ec || self->done_ || self->ping_.expiry() > Clock::now()) return;
    self->connection_->send(ping_events(self->job_.dialect));
    self->arm_ping();
  });
}

void Exchange::arm_deadline() {
  deadline_.expires_after(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(job_.deadline_s)));
  deadline_.async_wait([self = shared_from_this()](boost::system::error_code ec) {
    if (!ec && !self->done_) self->fail({503, "no answer in time", "", "timeout"});
  });
}

}  // namespace kt
