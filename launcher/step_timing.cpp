#include "launcher/step_timing.h"

#include <chrono>
#include <functional>
#include <random>
#include <stop_token>

#include "runtime/base/error.h"

namespace kt {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// Ids without text: what steps cost does not depend on a vocabulary.
class NoText final : public Tokenizer {
 public:
  explicit NoText(int vocab) : vocab_(vocab) {}
  std::vector<int32_t> encode(std::string_view, EncodeOptions) const override { return {}; }
  std::string_view bytes(int32_t) const override { return {}; }
  bool is_special(int32_t) const override { return false; }
  std::optional<int32_t> find(std::string_view) const override { return std::nullopt; }
  int32_t size() const override { return vocab_; }

 private:
  int vocab_;
};

// Notes when each step ended.
class TimedRunner final : public StepRunner {
 public:
  explicit TimedRunner(StepRunner& runner) : runner_(runner) {}
  int vocab() const override { return runner_.vocab(); }
  std::span<const float> run(const StepPlan& plan) override {
    const std::span<const float> logits = runner_.run(plan);
    ends_.push_back({phase_of(plan), Clock::now()});
    return logits;
  }
  // The engine's work between steps is part of the step that follows.
  void add_to(StepTiming& timing, Clock::time_point start) const {
    Clock::time_point last = start;
    for (const auto& [phase, end] : ends_) {
      if (phase == Phase::prefill) {
        timing.prefill_s = {seconds(start, end)};
        timing.decode_s.clear();  // of a part of the batch
      } else {
        timing.decode_s.push_back(seconds(last, end));
      }
      last = end;
    }
  }

 private:
  struct End {
    Phase phase;
    Clock::time_point time;
  };
  StepRunner& runner_;
  std::vector<End> ends_;
};

std::vector<ClockReading> difference(const std::vector<ClockReading>& later, const std::vector<ClockReading>& earlier) {
  std::vector<ClockReading> result;
  for (size_t r = 0; r < later.size(); ++r)
    result.push_back({later[r].parts - earlier[r].parts, later[r].layers - earlier[r].layers});
  return result;
}

std::vector<int32_t> random_tokens(int count, int vocab, std::mt19937_64& random) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab));
  return ids;
}

// The step in which every sequence gets the token at `position`.
StepPlan decode_plan(int batch, int position, int blocks_each, int vocab, std::mt19937_64& random) {
  StepPlan plan{.tokens = random_tokens(batch, vocab, random)};
  for (int b = 0; b < batch; ++b) {
    plan.slices.push_back({.slot = b, .first = position, .count = 1});
    plan.block_begin.push_back(b * blocks_each);
    for (int i = 0; i < blocks_each; ++i) plan.blocks.push_back(b * blocks_each + i);
  }
  plan.block_begin.push_back(batch * blocks_each);
  return plan;
}

int blocks_for(int tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

void add(RoutedTotals& sum, const RoutedTotals& more) {
  sum.pairs += more.pairs;
  sum.hot_pairs += more.hot_pairs;
  sum.streamed_bytes += more.streamed_bytes;
  sum.moved_bytes += more.moved_bytes;
  sum.weight += more.weight;
  sum.late_weight += more.late_weight;
}

}  // namespace

void RoutedSums::after(const StepPlan& plan, const StepReport& r) {
  add(sums_[static_cast<size_t>(phase_of(plan))],
      {r.pairs, r.hot_pairs, r.streamed_bytes, r.moved_bytes, r.weight, r.late_weight});
}

void StepTiming::operator+=(const StepTiming& more) {
  prefill_s.insert(prefill_s.end(), more.prefill_s.begin(), more.prefill_s.end());
  decode_s.insert(decode_s.end(), more.decode_s.begin(), more.decode_s.end());
  if (by_rank.empty()) {
    by_rank = more.by_rank;
  } else {
    for (size_t r = 0; r < by_rank.size(); ++r)
      by_rank[r] = {by_rank[r].parts + more.by_rank[r].parts, by_rank[r].layers + more.by_rank[r].layers};
  }
  for (size_t p = 0; p < routed.size(); ++p) add(routed[p], more.routed[p]);
}

int64_t cache_tokens(int batch, int tokens, int decode) {
  return int64_t{batch} * blocks_for(tokens + decode + 1) * kBlockTokens;
}

StepTiming time_prompts(const JobRank& job, ClusterRunner& runner, int batch, int prompt, int decode) {
  const NoText tokenizer(job.model().vocab);
  TimedRunner timed(runner);
  const std::unique_ptr<Engine> engine = make_engine(job.engine, timed, tokenizer);
  std::mt19937_64 random(static_cast<uint64_t>(prompt));
  runner.ask_clocks();
  const std::vector<ClockReading> before = runner.readings();

  for (int b = 0; b < batch; ++b) {
    GenerateRequest request{.input_ids = random_tokens(prompt, job.model().vocab, random)};
    request.sampling.temperature = 0.0f;
    request.sampling.max_new_tokens = decode + 1;
    request.sampling.ignore_eos = true;
    const auto check = [](const Emission& e) {
      if (e.finish && e.finish->kind != Finish::Kind::length)
        fail(kExitTryAgain, "a request ended early: {}", e.finish->message);
    };
    if (const auto taken = engine->submit(std::move(request), check); std::holds_alternative<Rejection>(taken))
      fail(kExitUsage, "a prompt of {} tokens: {}", prompt, std::get<Rejection>(taken).message);
  }
  std::stop_source stop;
  stop.request_stop();  // when what was submitted is done
  const Clock::time_point start = Clock::now();
  engine->run(stop.get_token());

  StepTiming timing;
  timed.add_to(timing, start);
  runner.ask_clocks();
  timing.by_rank = difference(runner.readings(), before);
  return timing;
}

StepTiming time_contexts(const JobRank& job, ClusterRunner& runner, int batch, int context, int decode) {
  const int blocks = blocks_for(context + decode + 1), vocab = job.model().vocab;
  std::mt19937_64 random(static_cast<uint64_t>(context));
  runner.run(decode_plan(batch, context, blocks, vocab, random));  // warms up
  runner.ask_clocks();
  const std::vector<ClockReading> before = runner.readings();

  StepTiming timing;
  for (int i = 1; i <= decode; ++i) {
    const StepPlan plan = decode_plan(batch, context + i, blocks, vocab, random);
    const Clock::time_point start = Clock::now();
    runner.run(plan);
    timing.decode_s.push_back(seconds(start, Clock::now()));
  }
  runner.ask_clocks();
  timing.by_rank = difference(runner.readings(), before);
  return timing;
}

}  // namespace kt
