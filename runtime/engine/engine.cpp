#include "runtime/engine/engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/engine/generation.h"
#include "runtime/engine/prefill_pace.h"
#include "runtime/engine/sampler.h"
#include "runtime/engine/scheduler.h"

namespace kt {
namespace {

using Clock = std::chrono::steady_clock;

// Weight of the newest decode step in the reported tokens/s.
constexpr double kRateWeight = 0.1;
constexpr auto kIdleInterval = std::chrono::seconds(2);

int context_that_fits(const EngineConfig& config) {
  return static_cast<int>(std::min<int64_t>(config.context_length, int64_t{config.kv_blocks} * kBlockTokens));
}

SchedulerLimits limits_of(const EngineConfig& config) {
  if (context_that_fits(config) < 2) {
    fail(kExitUsage,
         "a context of {} tokens over {} KV blocks holds no prompt and answer; try a larger max-total-tokens",
         config.context_length, config.kv_blocks);
  }
  const bool whole_prompts = config.chunked_prefill_size == -1;
  return {
      .slots = config.max_running_requests,
      .blocks = config.kv_blocks,
      .chunk_tokens = whole_prompts ? std::max(context_that_fits(config), kBlockTokens) : config.chunked_prefill_size,
      .logit_rows = config.max_logit_rows,
      .mixed = config.enable_mixed_chunk,
      .prefix_cache = config.prefix_cache,
      .recurrent = config.recurrent,
      .snapshots = config.state_snapshots};
}

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

class StepEngine final : public Engine {
 public:
  StepEngine(const EngineConfig& config, StepRunner& runner, const Tokenizer& tokenizer)
      : config_(config),
        max_context_(context_that_fits(config)),
        vocab_(runner.vocab()),
        seeds_(random_seed()),
        runner_(runner),
        tokenizer_(tokenizer),
        scheduler_(limits_of(config)),
        pace_(config.max_decode_stall_ms / 1000.0, config.stall_step_costs),
        sampler_(std::min(tokenizer.size(), vocab_)) {
    stats_.max_running_requests = config.max_running_requests;
    stats_.max_context = max_context_;
    stats_.kv_tokens_total = config.kv_blocks * kBlockTokens;
  }

  std::variant<uint64_t, Rejection> submit(GenerateRequest request, OnEmission on_emission) override {
    if (auto rejection = check(request)) return *rejection;
    const std::lock_guard lock(mutex_);
    if (draining_) return Rejection{503, why_draining_};
    if (config_.max_queued_requests >= 0 && open_ - config_.max_running_requests >= config_.max_queued_requests) {
      return Rejection{429, "The request queue is full."};
    }
    if (open_++ == 0) last_progress_ = Clock::now();
    ++stats_.requests_total;
    stats_.prompt_tokens_total += request.input_ids.size();
    inbox_.push_back({++last_id_, Clock::now(), std::move(request), std::move(on_emission)});
    wake_.notify_one();
    return last_id_;
  }

  void abort(uint64_t id) override {
    const std::lock_guard lock(mutex_);
    aborts_.push_back(id);
    wake_.notify_one();
  }

  EngineStats stats() const override {
    const std::lock_guard lock(mutex_);
    EngineStats stats = stats_;
    stats.waiting += static_cast<int>(inbox_.size());
    stats.draining = draining_;
    stats.step_totals = runner_.totals();
    const Clock::time_point now = Clock::now();
    if (const int64_t progress = runner_.progress(); std::exchange(progress_seen_, progress) != progress)
      last_progress_ = now;
    if (open_ > 0) stats.step_age_s = std::chrono::duration<double>(now - last_progress_).count();
    return stats;
  }

  void drain(const std::string& why) override {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    if (why_draining_.empty()) why_draining_ = why;
  }

  bool flush_cache() override {
    const std::lock_guard lock(mutex_);
    if (open_ > 0) return false;
    flush_ = true;
    wake_.notify_one();
    return true;
  }

  void run(std::stop_token stop) override {
    const std::stop_callback wake_up(stop, [this] {
      drain(kShuttingDown);
      const std::lock_guard lock(mutex_);
      wake_.notify_one();
    });
    try {
      while (wait_for_work(stop)) {
        take_commands();
        step();
      }
    } catch (const std::exception& error) {
      end_all(error.what());
      throw;
    }
  }

 private:
  struct Submitted {
    uint64_t id;
    Clock::time_point when;
    GenerateRequest request;
    OnEmission on_emission;
  };
  using Generations = std::map<uint64_t, Generation>;

  std::optional<Rejection> check(const GenerateRequest& request) const {
    const size_t length = request.input_ids.size();
    if (length == 0) return Rejection{400, "The input is empty."};
    if (length >= static_cast<size_t>(max_context_)) {
      return Rejection{400, fmt::format("The input ({} tokens) is longer than the model's context length ({} tokens).",
                                        length, max_context_)};
    }
    for (const int32_t id : request.input_ids) {
      if (id < 0 || id >= vocab_) {
        return Rejection{400, fmt::format("Token id {} is not in the vocabulary (0 to {}).", id, vocab_ - 1)};
      }
    }
    return std::nullopt;
  }

  // False when a stop was requested and every request has its last emission.
  bool wait_for_work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kIdleInterval, [&] { return open_ > 0 || flush_ || stop.stop_requested(); })) {
      lock.unlock();
      try {
        runner_.idle();
      } catch (const StepUndone&) {
      }
      lock.lock();
    }
    return open_ > 0 || !stop.stop_requested();
  }

  void take_commands() {
    std::vector<Submitted> submitted;
    std::vector<uint64_t> aborts;
    bool flush = false;
    {
      const std::lock_guard lock(mutex_);
      submitted.swap(inbox_);
      aborts.swap(aborts_);
      flush = std::exchange(flush_, false);
    }
    if (flush) scheduler_.flush_cache();  // asked for when nothing was open: before what came since
    for (Submitted& s : submitted) start(s);
    for (const uint64_t id : aborts) {
      const auto found = generations_.find(id);
      if (found != generations_.end()) end(found, {Finish::Kind::abort, {}, "The request was aborted."});
    }
    end_overdue(Clock::now());
    deliver_last_words();
  }

  void end_overdue(Clock::time_point now) {
    std::vector<uint64_t> overdue;
    for (const auto& [id, deadline] : deadlines_) {
      if (deadline <= now) overdue.push_back(id);
    }
    for (const uint64_t id : overdue) {
      end(generations_.find(id), {Finish::Kind::timeout, {}, "The request's deadline has passed."});
    }
    if (config_.idle_timeout_s > 0) end_idle(now);
  }

  // What is too long in the queue, at first or after it gave its memory to others; all others have part in every step
  // or every second one.
  void end_idle(Clock::time_point now) {
    std::vector<uint64_t> idle;
    for (const auto& [id, since] : idle_since_) {
      if (std::chrono::duration<double>(now - since).count() >= config_.idle_timeout_s) idle.push_back(id);
    }
    for (const uint64_t id : idle) {
      end(generations_.find(id),
          {Finish::Kind::timeout,
           {},
           fmt::format("Nothing of the request was computed for {:g} s: the server has too much to do.",
                       config_.idle_timeout_s)});
    }
  }

  // A deadline beyond a year is as good as none, and the clock cannot hold all numbers.
  static Clock::time_point deadline_of(const Submitted& s) {
    constexpr double kYear = 365.0 * 86400.0;
    const std::chrono::duration<double> seconds(std::min(s.request.deadline_s, kYear));
    return s.when + std::chrono::duration_cast<Clock::duration>(seconds);
  }

  void start(Submitted& s) {
    GenerateRequest& request = s.request;
    const int room = max_context_ - static_cast<int>(request.input_ids.size());
    const int wanted = request.sampling.max_new_tokens, max_new = wanted < 0 ? room : std::min(wanted, room);
    generations_.emplace(std::piecewise_construct, std::forward_as_tuple(s.id),
                         std::forward_as_tuple(request, last_words_last(std::move(s.on_emission)), tokenizer_,
                                               config_.eos, max_new, seeds_ + s.id));
    queued_.emplace(s.id, s.when);
    idle_since_.emplace(s.id, s.when);
    if (request.deadline_s > 0) deadlines_.emplace(s.id, deadline_of(s));
    // The logits at a position say how probable the next token is.
    const bool prompt_too = request.return_logprob && request.logprob_start >= 0;
    scheduler_.add({.id = s.id,
                    .prompt = std::move(request.input_ids),
                    .priority = request.priority,
                    .max_answer = max_new,
                    .logits_from = prompt_too ? std::max(request.logprob_start - 1, 0) : -1,
                    .salt = std::move(request.cache_salt),
                    .client = std::move(request.client)});
  }

  // Who has an answer's end finds the engine's books without it: the cache can be flushed, the statistics are up to
  // date.
  OnEmission last_words_last(OnEmission on_emission) {
    return [this, on_emission = std::move(on_emission)](Emission emission) {
      if (!emission.finish) return on_emission(std::move(emission));
      last_words_.emplace_back(on_emission, std::move(emission));
    };
  }

  void deliver_last_words() {
    for (auto& [on_emission, emission] : std::exchange(last_words_, {})) on_emission(std::move(emission));
  }

  void step() {
    const Clock::time_point begin = Clock::now();
    const Scheduler::Planned& planned = scheduler_.plan(pace_.prefill_tokens());
    for (const uint64_t id : planned.out_of_blocks) end(generations_.find(id), {Finish::Kind::length, {}, {}});
    const StepPlan& plan = planned.plan;
    leave_queue(planned.ids, begin);
    if (!plan.slices.empty()) {
      tell_progress(planned, begin);
      std::span<const float> logits;
      try {
        logits = runner_.run(plan);
      } catch (const StepUndone&) {
        return scheduler_.undo_step();
      }
      const size_t expected = static_cast<size_t>(plan.logit_rows()) * static_cast<size_t>(vocab_);
      if (logits.size() != expected)
        fail(kExitPeerLost, "step {}: {} logits, {} expected", plan.step, logits.size(), expected);
      scheduler_.finish_step();
      const Clock::time_point now = Clock::now();
      for (const uint64_t id : planned.ids) idle_since_[id] = now;
      take_commands();
      take_logits(planned, logits);
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    pace_.ran(plan.rows() - planned.decode_rows, planned.decode_rows, seconds);
    report(planned, seconds);
    deliver_last_words();
  }

  void leave_queue(std::span<const uint64_t> ids, Clock::time_point now) {
    if (queued_.empty()) return;
    for (const uint64_t id : ids) {
      const auto queued = queued_.find(id);
      if (queued == queued_.end()) continue;
      generations_.at(id).set_queue_time(std::chrono::duration<double>(now - queued->second).count());
      queued_.erase(queued);
    }
  }

  void tell_progress(const Scheduler::Planned& planned, Clock::time_point now) {
    for (size_t i = static_cast<size_t>(planned.decode_rows); i < planned.ids.size(); ++i) {
      Generation& generation = generations_.at(planned.ids[i]);
      generation.set_cached_tokens(scheduler_.cached_tokens(planned.ids[i]));
      generation.tell_progress(planned.plan.slices[i].first, now);
    }
  }

  void take_logits(const Scheduler::Planned& planned, std::span<const float> logits) {
    const size_t vocab = static_cast<size_t>(vocab_);
    for (size_t i = 0; i < planned.ids.size(); ++i) {
      const SeqSlice& slice = planned.plan.slices[i];
      for (int at = slice.logits_from; at < slice.count; ++at) {
        const auto generation = generations_.find(planned.ids[i]);  // gone when it was aborted or has just ended
        if (generation != generations_.end()) take_row(generation, slice.first + at, logits.first(vocab));
        logits = logits.subspan(vocab);
      }
    }
  }

  // Logits of the token at `position` of the sequence.
  void take_row(Generations::iterator entry, int position, std::span<const float> logits) {
    Generation& generation = entry->second;
    const std::span<const int32_t> tokens = scheduler_.tokens(entry->first);
    const size_t next = static_cast<size_t>(position) + 1;
    generation.set_cached_tokens(scheduler_.cached_tokens(entry->first));
    if (next < tokens.size()) {
      generation.add_prompt_logprob(sampler_.logprob(logits, tokens[next], generation.top_logprobs()));
      return;
    }
    if (generation.complete()) return end(entry, {Finish::Kind::length, {}, {}});  // no token was wanted
    const std::optional<int32_t> token = sampler_.sample(logits, generation.sampling(), generation.sampler(),
                                                         generation.made(), next, generation.allowed());
    if (!token) {
      return end(entry, {Finish::Kind::error,
                         {},
                         fmt::format("No token can follow at position {}: the model's logits are not numbers, "
                                     "or the grammar admits none.",
                                     position)});
    }
    scheduler_.append(entry->first, *token);
    ++generated_;
    const bool last =
        generation.add_token(generation.wants_logprobs() ? sampler_.logprob(logits, *token, generation.top_logprobs())
                                                         : TokenLogprob{.id = *token, .logprob = 0.0f, .top = {}});
    if (last) forget(entry);
  }

  void end(Generations::iterator entry, Finish finish) {
    if (finish.kind == Finish::Kind::abort) ++aborted_;
    entry->second.end(std::move(finish));
    forget(entry);
  }

  void forget(Generations::iterator entry) {
    scheduler_.remove(entry->first);
    queued_.erase(entry->first);
    deadlines_.erase(entry->first);
    idle_since_.erase(entry->first);
    generations_.erase(entry);
    const std::lock_guard lock(mutex_);
    --open_;
  }

  void report(const Scheduler::Planned& planned, double seconds) {
    const bool decode_only = planned.decode_rows == planned.plan.rows();
    const std::lock_guard lock(mutex_);
    if (planned.plan.rows() > 0) {
      Histogram& steps = decode_only                ? stats_.decode_steps
                         : planned.decode_rows == 0 ? stats_.prefill_steps
                                                    : stats_.mixed_steps;
      steps.record(seconds);
    }
    last_progress_ = Clock::now();
    stats_.running = scheduler_.running();
    stats_.waiting = scheduler_.waiting();
    stats_.kv_tokens_used = scheduler_.used_blocks() * kBlockTokens;
    stats_.kv_tokens_cached = scheduler_.cached_blocks() * kBlockTokens;
    stats_.retracted = scheduler_.retracted();
    stats_.batch_tokens = planned.plan.rows();
    stats_.queried_tokens_total = scheduler_.queried_tokens_total();
    stats_.cached_tokens_total = scheduler_.cached_tokens_total();
    stats_.evicted_tokens_total = scheduler_.evicted_tokens_total();
    stats_.retracted_total = scheduler_.retractions();
    stats_.generation_tokens_total = generated_;
    stats_.aborted_total = aborted_;
    if (decode_only && planned.decode_rows > 0 && seconds > 0.0) {
      const double rate = static_cast<double>(planned.decode_rows) / seconds;
      double& shown = stats_.last_generation_throughput;
      shown = shown == 0.0 ? rate : (1.0 - kRateWeight) * shown + kRateWeight * rate;
    }
  }

  void end_all(const std::string& reason) {
    std::vector<Submitted> submitted;
    {
      const std::lock_guard lock(mutex_);
      draining_ = true;
      why_draining_ = reason;
      submitted.swap(inbox_);
    }
    for (Submitted& s : submitted) start(s);
    while (!generations_.empty()) end(generations_.begin(), {Finish::Kind::error, {}, reason});
    deliver_last_words();
  }

  const EngineConfig config_;
  const int max_context_, vocab_;
  const uint64_t seeds_;  // requests without a seed draw from this one plus their id

  mutable std::mutex mutex_;  // guards all down to the empty line
  std::condition_variable wake_;
  std::vector<Submitted> inbox_;
  std::vector<uint64_t> aborts_;
  uint64_t last_id_ = 0;
  int open_ = 0;  // submitted and not ended
  bool draining_ = false;
  std::string why_draining_;
  bool flush_ = false;                       // the prefix cache, before anything else
  mutable Clock::time_point last_progress_;  // as far as somebody looked
  mutable int64_t progress_seen_ = 0;
  EngineStats stats_;

  // Of the thread in run().
  StepRunner& runner_;
  const Tokenizer& tokenizer_;
  Scheduler scheduler_;
  PrefillPace pace_;
  Sampler sampler_;
  Generations generations_;
  std::map<uint64_t, Clock::time_point> queued_;                  // when they came, of those that have not run yet
  std::map<uint64_t, Clock::time_point> deadlines_, idle_since_;  // idle_since_: of all, their last step
  std::vector<std::pair<OnEmission, Emission>> last_words_;
  uint64_t generated_ = 0, aborted_ = 0;
};

}  // namespace

int max_step_rows(const EngineConfig& config) { return max_step_rows(limits_of(config)); }

std::unique_ptr<Engine> make_engine(const EngineConfig& config, StepRunner& runner, const Tokenizer& tokenizer) {
  return std::make_unique<StepEngine>(config, runner, tokenizer);
}

}  // namespace kt
