#include "runtime/rank/cluster_runner.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/error.h"
#include "runtime/model/experts/ask.h"
#include "runtime/model/experts/moe_room.h"

namespace kt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kAskInterval = std::chrono::seconds(2);  // for the clocks of other ranks

// Control messages that are no step: nothing means leave, one byte that rank 0 wants the clock's totals.
constexpr std::byte kTell[1] = {};

// All expert ranks that are no trunk ranks.
void tell_experts(Trunk& t, Ask what) {
  for (size_t i = 0; t.dispatch && i < t.dispatch->teams().size(); ++i)
    check(t.dispatch->give(i, {.ask = static_cast<int32_t>(what)}).fault, "orders to expert ranks");
}

template <class Work>
auto telling(const std::function<bool()>& on_loss, const Work& work) {
  try {
    return work();
  } catch (const Error& e) {
    if (on_loss && e.exit_code() == kExitPeerLost && on_loss()) throw StepUndone();
    throw;
  }
}

void leave(Trunk& t) {
  tell_experts(t, Ask::leave);
  t.experts->mover.reset();
}

}  // namespace

ClusterRunner::ClusterRunner(Transport& transport, const Topology& topology, const ModelConfig& config, Trunk* trunk,
                             Group* group, std::vector<StepObserver*> observers, std::function<int64_t()> pulse,
                             std::function<bool()> on_loss)
    : transport_(transport),
      topology_(topology),
      config_(config),
      trunk_(trunk),
      group_(group),
      observers_(std::move(observers)),
      pulse_(std::move(pulse)),
      on_loss_(std::move(on_loss)),
      readings_(static_cast<size_t>(topology.world)),
      heard_(static_cast<size_t>(topology.world), Clock::now()) {
  const int trunks = static_cast<int>(topology.trunk.size());
  for (int i = 0; i < trunks; ++i) {
    vocab_parts_.push_back(trunk_share(config, i, trunks).vocab);
    vocab_widths_.push_back(vocab_parts_.back().size());
  }
}

// The first trunk rank's; it comes from another rank only when rank 0 just schedules.
StepReport ClusterRunner::report() {
  if (trunk_) return trunk_->report;
  transport_.receive(topology_.trunk[0], Tag::report, room_);
  return decode_step_report(room_);
}

std::span<const float> ClusterRunner::run(const StepPlan& asked) {
  return telling(on_loss_, [&] { return step(asked); });
}

void ClusterRunner::idle() {
  telling(on_loss_, [&] { ask_clocks(); });
}

std::span<const float> ClusterRunner::step(const StepPlan& asked) {
  StepPlan plan = asked;
  for (StepObserver* o : observers_) o->before(plan, plan.orders);
  const std::vector<std::byte> message = encode(plan);
  for (int rank : topology_.trunk)
    if (rank != topology_.rank) transport_.send(rank, Tag::control, message);
  const size_t rows = static_cast<size_t>(plan.logit_rows()), vocab = static_cast<size_t>(config_.vocab);
  logits_.resize(std::max(logits_.size(), rows * vocab));
  const auto place = [&](const Range& columns, const float* part, int64_t stride) {
    for (size_t r = 0; r < rows; ++r)
      std::memcpy(&logits_[r * vocab + columns.begin], part + static_cast<int64_t>(r) * stride,
                  columns.size() * sizeof(float));
  };
  if (trunk_) place(trunk_->share.vocab, forward(*trunk_, plan), trunk_->step.logits.ld);
  transport_.finish_sends();
  if (rows > 0 && group_) {
    const auto parts = [&](int i) { return vocab_parts_[static_cast<size_t>(i)]; };
    check(group_->take(static_cast<int>(rows), vocab_widths_,
                       [&](int i, const Group::Rows& part) { place(parts(i), part.at, part.stride); }),
          "logits");
  }
  const StepReport seen = report();
  for (StepObserver* o : observers_) o->after(plan, seen);
  if (Clock::now() - asked_ >= kAskInterval) ask_clocks();
  note_own_clock();
  return {logits_.data(), rows * vocab};
}

void ClusterRunner::note_own_clock() {
  const std::lock_guard lock(readings_mutex_);
  heard_[static_cast<size_t>(topology_.rank)] = Clock::now();
  if (trunk_) readings_[static_cast<size_t>(topology_.rank)] = trunk_->clock.reading();
}

void ClusterRunner::ask_clocks() {
  for (int rank : topology_.trunk)
    if (rank != topology_.rank) transport_.send(rank, Tag::control, kTell);
  if (trunk_) tell_experts(*trunk_, Ask::clock);
  for (const int rank : present(transport_)) {
    if (rank == topology_.rank) continue;
    transport_.receive(rank, Tag::clock, room_);
    ClockReading reading = decode_clock_reading(room_);
    const std::lock_guard lock(readings_mutex_);
    readings_[static_cast<size_t>(rank)] = std::move(reading);
    heard_[static_cast<size_t>(rank)] = Clock::now();
  }
  transport_.finish_sends();
  note_own_clock();
  asked_ = Clock::now();
}

std::vector<StepTotals> ClusterRunner::totals() const {
  std::vector<StepTotals> totals;
  const std::lock_guard lock(readings_mutex_);
  for (const ClockReading& r : readings_) totals.push_back(r.parts);
  return totals;
}

std::vector<ClockReading> ClusterRunner::readings() const {
  const std::lock_guard lock(readings_mutex_);
  return readings_;
}

std::vector<double> ClusterRunner::heartbeat_ages() const {
  std::vector<double> ages;
  const Clock::time_point now = Clock::now();
  const std::lock_guard lock(readings_mutex_);
  for (const Clock::time_point heard : heard_)
    ages.push_back(std::max(0.0, std::chrono::duration<double>(now - heard).count()));
  return ages;
}

void ClusterRunner::dismiss() {
  for (int rank : topology_.trunk)
    if (rank != topology_.rank) transport_.send(rank, Tag::control, {});
  transport_.finish_sends();
  if (trunk_) leave(*trunk_);
}

void serve_trunk(Trunk& t) {
  std::vector<std::byte> message;
  for (;;) {
    t.transport.receive(0, Tag::control, message);
    if (message.empty()) return leave(t);
    if (message.size() == std::size(kTell)) {
      const std::vector<std::byte> reading = encode(t.clock.reading());
      t.transport.send(0, Tag::clock, reading);
      tell_experts(t, Ask::clock);
      continue;
    }
    const StepPlan plan = decode_step_plan(message);
    const float* logits = forward(t, plan);
    const bool reports = t.share.index == 0;  // and is not rank 0: that one runs its part in ClusterRunner
    const std::vector<std::byte> report = reports ? encode(t.report) : std::vector<std::byte>();
    if (plan.logit_rows() > 0)
      check(t.group->give(
                {.at = logits, .stride = t.step.logits.ld, .rows = plan.logit_rows(), .columns = t.share.vocab.size()}),
            "logits");
    if (reports) t.transport.send(0, Tag::report, report);
    t.transport.finish_sends();
  }
}

}  // namespace kt
