#include "runtime/engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "runtime/base/error.h"

namespace kt {
namespace {

int blocks_for(int tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

}  // namespace

int max_step_rows(const SchedulerLimits& limits) { return std::max(limits.chunk_tokens, limits.slots + kBlockTokens); }

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits), blocks_(std::max(limits.blocks, 0)) {
  if (limits.slots < 1 || limits.blocks < 1) {
    fail(kExitUsage, "{} running requests over {} KV blocks: at least 1 of each is needed", limits.slots,
         limits.blocks);
  }
  if (limits.chunk_tokens < kBlockTokens) {
    fail(kExitUsage, "chunked-prefill-size {}: at least {} expected", limits.chunk_tokens, kBlockTokens);
  }
  if (limits.logit_rows < limits.slots + kBlockTokens) {
    fail(kExitUsage, "max-running-requests {}: at most {} fit the {} logits rows of a step", limits.slots,
         limits.logit_rows - kBlockTokens, limits.logit_rows);
  }
  for (int32_t slot = limits.slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

bool Scheduler::Earlier::operator()(const Sequence* a, const Sequence* b) const {
  return std::pair(-int64_t{a->priority}, a->arrival) < std::pair(-int64_t{b->priority}, b->arrival);
}

void Scheduler::add(NewSequence added) {
  const int length = static_cast<int>(added.prompt.size());
  if (length < 1 || blocks_for(length) > blocks_.total()) {
    fail(kExitUsage, "sequence {}: a prompt of {} tokens for a pool of {} blocks", added.id, length, blocks_.total());
  }
  Sequence sequence{.id = added.id,
                    .arrival = arrivals_++,
                    .priority = added.priority,
                    .tokens = std::move(added.prompt),
                    .prompt = length,
                    .blocks = {},
                    .logits_due = added.logits_from < 0 ? length - 1 : std::min(added.logits_from, length - 1)};
  const auto [entry, is_new] = sequences_.emplace(added.id, std::move(sequence));
  if (!is_new) fail(kExitUsage, "sequence {} was added twice", added.id);
  waiting_.insert(&entry->second);
}

void Scheduler::remove(uint64_t id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  if (running_.contains(&found->second)) release(found->second);
  waiting_.erase(&found->second);
  sequences_.erase(found);
}

const Scheduler::Planned& Scheduler::plan() {
  planned_.ids.clear();
  planned_.out_of_blocks.clear();
  planned_.plan.slices.clear();
  planned_.plan.tokens.clear();
  planned_.plan.blocks.clear();
  planned_.plan.block_begin.assign(1, 0);
  planned_.plan.step = steps_++;
  // A bound on how long decoding may stand still would be a second reason to plan decode rows first.
  if (limits_.mixed) plan_decode();
  plan_prefill();
  if (!limits_.mixed && planned_.plan.slices.empty()) plan_decode();
  return planned_;
}

void Scheduler::plan_decode() {
  for (auto at = running_.begin(); at != running_.end(); ++at) {
    Sequence& sequence = **at;
    if (!sequence.decoding()) continue;
    if (grow(sequence)) {
      add_slice(sequence, 1);
      continue;
    }
    // All after it have left, and still there is no block.
    if (running_.size() == 1) {
      planned_.out_of_blocks.push_back(sequence.id);
    } else {
      retract(sequence);
    }
    break;
  }
}

void Scheduler::plan_prefill() {
  int budget = std::max(limits_.chunk_tokens - planned_.plan.rows(), kBlockTokens);
  for (Sequence* sequence : running_) {
    if (sequence->decoding()) continue;
    if (!add_chunk(*sequence, budget)) return;
  }
  while (!waiting_.empty() && budget > 0) {
    Sequence& sequence = **waiting_.begin();
    if (!admit(sequence) || !add_chunk(sequence, budget)) return;
  }
}

// Adds the next chunk of a prompt. False if the step has no room for all that is left of it.
bool Scheduler::add_chunk(Sequence& sequence, int& budget) {
  const int logit_rows = limits_.logit_rows - planned_.plan.logit_rows();
  const int due = std::max(sequence.logits_due, sequence.computed);
  int end = std::min({sequence.size(), sequence.computed + budget, due + logit_rows});
  if (end < sequence.size()) end = end / kBlockTokens * kBlockTokens;
  if (end <= sequence.computed) return false;
  budget -= end - sequence.computed;
  add_slice(sequence, end - sequence.computed);
  return end == sequence.size();
}

void Scheduler::add_slice(Sequence& sequence, int count) {
  StepPlan& plan = planned_.plan;
  const int first = sequence.computed;
  plan.slices.push_back({.slot = sequence.slot,
                         .first = first,
                         .count = count,
                         .logits_from = std::clamp(sequence.logits_due - first, 0, count)});
  const auto token = sequence.tokens.begin() + first;
  plan.tokens.insert(plan.tokens.end(), token, token + count);
  const auto block = sequence.blocks.begin();
  plan.blocks.insert(plan.blocks.end(), block, block + blocks_for(first + count));
  plan.block_begin.push_back(static_cast<int32_t>(plan.blocks.size()));
  planned_.ids.push_back(sequence.id);
}

void Scheduler::finish_step() {
  for (size_t i = 0; i < planned_.ids.size(); ++i) {
    Sequence& sequence = sequences_.at(planned_.ids[i]);
    sequence.computed += planned_.plan.slices[i].count;
    sequence.logits_due = std::max(sequence.logits_due, sequence.computed);
  }
}

void Scheduler::append(uint64_t id, int32_t token) { sequences_.at(id).tokens.push_back(token); }

std::span<const int32_t> Scheduler::tokens(uint64_t id) const { return sequences_.at(id).tokens; }

// Makes room for one more token, at the cost of those later in the order.
bool Scheduler::grow(Sequence& sequence) {
  const int missing = blocks_for(sequence.size()) - static_cast<int>(sequence.blocks.size());
  while (!blocks_.take(missing, sequence.blocks)) {
    Sequence& last = **running_.rbegin();
    if (&last == &sequence) return false;
    retract(last);
  }
  return true;
}

// All blocks of the known tokens at once: two half-filled prompts could otherwise wait for each other. A block for each
// running sequence stays free, or what was just prefilled would be retracted by the next decode steps.
bool Scheduler::admit(Sequence& sequence) {
  const int needed = blocks_for(sequence.size());
  if (free_slots_.empty() || needed + running() > blocks_.free_count()) return false;
  blocks_.take(needed, sequence.blocks);
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  waiting_.erase(&sequence);
  running_.insert(&sequence);
  return true;
}

void Scheduler::retract(Sequence& sequence) {
  release(sequence);
  waiting_.insert(&sequence);
  ++retractions_;
}

void Scheduler::release(Sequence& sequence) {
  running_.erase(&sequence);
  blocks_.give_back(sequence.blocks);
  sequence.blocks.clear();
  free_slots_.push_back(sequence.slot);
  sequence.slot = -1;
  sequence.computed = 0;
}

}  // namespace kt
