#include "runtime/engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "runtime/base/error.h"

namespace kt {
namespace {

// Between saved states of a long prompt: what a later prompt that leaves its path elsewhere computes again at most,
// against a state, which weighs as much as some thousand tokens of keys and values.
constexpr int kStateSpacing = 2048;

int blocks_for(int tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

}  // namespace

int max_step_rows(const SchedulerLimits& limits) { return std::max(limits.chunk_tokens, limits.slots + kBlockTokens); }

Scheduler::Scheduler(const SchedulerLimits& limits)
    : limits_(limits), cache_(std::max(limits.blocks, 0), limits.recurrent, std::max(limits.snapshots, 0)) {
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
  return std::pair(a->place, a->arrival) < std::pair(b->place, b->arrival);
}

void Scheduler::add(NewSequence added) {
  const int length = static_cast<int>(added.prompt.size());
  if (length < 1 || blocks_for(length) > cache_.total()) {
    fail(kExitUsage, "sequence {}: a prompt of {} tokens for a pool of {} blocks", added.id, length, cache_.total());
  }
  const int64_t turn = next_turn(added.client);
  Sequence sequence{.id = added.id,
                    .turn = turn,
                    .place = turn - added.priority * kHeadStart,
                    .arrival = arrivals_,
                    .salt = std::move(added.salt),
                    .tokens = std::move(added.prompt),
                    .prompt = length,
                    .max_answer = added.max_answer,
                    .blocks = {},
                    .logits_due = added.logits_from < 0 ? length - 1 : std::min(added.logits_from, length - 1)};
  const auto [entry, is_new] = sequences_.emplace(added.id, std::move(sequence));
  if (!is_new) fail(kExitUsage, "sequence {} was added twice", added.id);
  waiting_.insert(&entry->second);
  ++arrivals_;
}

// Start-time fair queueing with sequences of equal cost: behind the client's last one, or behind what has been
// admitted.
int64_t Scheduler::next_turn(const std::string& client) {
  if (last_turn_.size() > 2 * sequences_.size() + 64)
    std::erase_if(last_turn_, [&](const auto& entry) { return entry.second <= turn_; });
  int64_t& last = last_turn_[client];
  return last = std::max(last, turn_) + 1;
}

void Scheduler::remove(uint64_t id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  if (running_.contains(&found->second)) release(found->second);
  waiting_.erase(&found->second);
  sequences_.erase(found);
}

const Scheduler::Planned& Scheduler::plan(int prefill_tokens) {
  planned_.ids.clear();
  planned_.decode_rows = 0;
  planned_.out_of_blocks.clear();
  planned_.plan.slices.clear();
  planned_.plan.tokens.clear();
  planned_.plan.blocks.clear();
  planned_.plan.block_begin.assign(1, 0);
  planned_.plan.step = steps_++;
  const bool answering = std::any_of(running_.begin(), running_.end(), [](const Sequence* s) { return s->decoding(); });
  const int bound = answering ? prefill_tokens : kNoBound;
  if (limits_.mixed) plan_decode();
  if (bound > 0) plan_prefill(std::min(bound, std::max(limits_.chunk_tokens - planned_.plan.rows(), kBlockTokens)));
  if (!limits_.mixed && planned_.plan.slices.empty()) plan_decode();
  return planned_;
}

void Scheduler::plan_decode() {
  for (auto at = running_.begin(); at != running_.end(); ++at) {
    Sequence& sequence = **at;
    if (!sequence.decoding()) continue;
    if (grow(sequence)) {
      add_slice(sequence, 1);
      ++planned_.decode_rows;
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

void Scheduler::plan_prefill(int budget) {
  for (Sequence* sequence : running_) {
    if (sequence->decoding()) continue;
    if (!add_chunk(*sequence, budget)) return;
  }
  while (!waiting_.empty() && budget > 0) {
    Sequence& sequence = **waiting_.begin();
    if (!admit(sequence, budget) || !add_chunk(sequence, budget)) return;
  }
}

// Where the next chunk of a prompt ends; at its beginning if the step has no room for one.
int Scheduler::chunk_end(const Sequence& sequence, int budget) const {
  const int logit_rows = limits_.logit_rows - planned_.plan.logit_rows();
  const int due = std::max(sequence.logits_due, sequence.computed);
  int end = std::min({sequence.computed + std::min(budget, sequence.size() - sequence.computed), due + logit_rows});
  if (sequence.computed < sequence.fork) end = std::min(end, sequence.fork);
  return end < sequence.size() ? end / kBlockTokens * kBlockTokens : end;
}

// Adds the next chunk of a prompt. False if it is not the last.
bool Scheduler::add_chunk(Sequence& sequence, int& budget) {
  const int end = chunk_end(sequence, budget);
  if (end <= sequence.computed) return false;
  budget -= end - sequence.computed;
  add_slice(sequence, end - sequence.computed);
  return end == sequence.size();
}

void Scheduler::add_slice(Sequence& sequence, int count) {
  StepPlan& plan = planned_.plan;
  const int first = sequence.computed;
  SeqSlice slice{.slot = sequence.slot,
                 .first = first,
                 .count = count,
                 .logits_from = std::clamp(sequence.logits_due - first, 0, count),
                 .prompt = sequence.prompt,
                 .load = std::exchange(sequence.load, PrefixCache::kNone)};
  if (const int position = state_to_save(sequence, first + count); position > 0) {
    slice.save = cache_.take_snapshot();
    slice.save_after = slice.save == PrefixCache::kNone ? 0 : position - first;
  }
  plan.slices.push_back(slice);
  const auto token = sequence.tokens.begin() + first;
  plan.tokens.insert(plan.tokens.end(), token, token + count);
  const auto block = sequence.blocks.begin();
  plan.blocks.insert(plan.blocks.end(), block, block + blocks_for(first + count));
  plan.block_begin.push_back(static_cast<int32_t>(plan.blocks.size()));
  planned_.ids.push_back(sequence.id);
}

// After which position of the next slice, which ends at `end`, the recurrent state is to be kept; 0: none. A prompt's
// last boundary serves its repetitions and the next turn of a talk; where paths part, all that begin alike; the newest
// boundary of an answer, the next turn and the sequence itself should it be retracted; and long prompts have some on
// the way.
int Scheduler::state_to_save(const Sequence& sequence, int end) const {
  if (!limits_.recurrent || !limits_.prefix_cache) return 0;
  const int last = (sequence.size() - 1) / kBlockTokens * kBlockTokens;
  if (sequence.computed < last && last <= end) return last;
  if (end % kBlockTokens != 0) return 0;
  const bool wanted = sequence.decoding() || end == sequence.fork || end - sequence.kept >= kStateSpacing;
  return wanted ? end : 0;
}

void Scheduler::finish_step() {
  for (size_t i = 0; i < planned_.ids.size(); ++i) {
    Sequence& sequence = sequences_.at(planned_.ids[i]);
    const SeqSlice& slice = planned_.plan.slices[i];
    sequence.computed += slice.count;
    sequence.logits_due = std::max(sequence.logits_due, sequence.computed);
    if (!limits_.prefix_cache) continue;
    share_blocks(sequence);
    if (slice.save != PrefixCache::kNone) keep_state(sequence, slice.first + slice.save_after, slice.save);
  }
}

void Scheduler::undo_step() {
  for (size_t i = 0; i < planned_.ids.size(); ++i) {
    if (const int32_t snapshot = planned_.plan.slices[i].save; snapshot != PrefixCache::kNone)
      cache_.give_back_snapshot(snapshot);
    retract(sequences_.at(planned_.ids[i]));
  }
}

// Puts the blocks that are full by now into the cache, where others find them at once.
void Scheduler::share_blocks(Sequence& sequence) {
  for (; (sequence.shared + 1) * kBlockTokens <= sequence.computed; ++sequence.shared) {
    const size_t at = static_cast<size_t>(sequence.shared);
    sequence.node =
        cache_.extend(sequence.node, sequence.salt, std::span(sequence.tokens).subspan(at * kBlockTokens, kBlockTokens),
                      sequence.blocks[at]);
    sequence.blocks[at] = sequence.node;
  }
}

// Of an answer only the newest state is kept: they would push out those of prompts.
void Scheduler::keep_state(Sequence& sequence, int position, int32_t snapshot) {
  const int32_t node = sequence.blocks[static_cast<size_t>(position / kBlockTokens - 1)];
  cache_.attach_snapshot(node, snapshot);
  sequence.kept = position;
  if (position - kBlockTokens > sequence.prompt) cache_.drop_snapshot_before(node);
}

void Scheduler::append(uint64_t id, int32_t token) { sequences_.at(id).tokens.push_back(token); }

bool Scheduler::flush_cache() {
  if (!running_.empty()) return false;
  cache_.flush();
  return true;
}

std::span<const int32_t> Scheduler::tokens(uint64_t id) const { return sequences_.at(id).tokens; }

int Scheduler::cached_tokens(uint64_t id) const { return std::max(sequences_.at(id).cached, 0); }

int Scheduler::retracted() const {
  return static_cast<int>(
      std::count_if(waiting_.begin(), waiting_.end(), [](const Sequence* s) { return s->cached >= 0; }));
}

// Makes room for one more token, at the cost of those later in the order.
bool Scheduler::grow(Sequence& sequence) {
  const int missing = blocks_for(sequence.size()) - static_cast<int>(sequence.blocks.size());
  while (!cache_.take(missing, sequence.blocks)) {
    Sequence& last = **running_.rbegin();
    if (&last == &sequence) return false;
    retract(last);
  }
  return true;
}

// Blocks to keep free for a sequence: an answer is expected to go on for as long as it has gone on, at least for a
// block and at most to its limit. The lengths of answers are so widely spread that age is the best guess of what is
// left, and it needs neither a ratio to tune nor a memory of other answers (SGLang's new_token_ratio has both). A wrong
// guess costs a retraction, and that little: what was computed waits in the cache.
int Scheduler::expected_growth(const Sequence& sequence) const {
  const int made = sequence.size() - sequence.prompt;
  const int left = sequence.max_answer < 0 ? kNoBound : std::max(sequence.max_answer - made, 0);
  const int held = sequence.blocks.empty() ? blocks_for(sequence.size()) : static_cast<int>(sequence.blocks.size());
  return std::max(blocks_for(sequence.size() + std::min(left, std::max(made, kBlockTokens))) - held, 0);
}

// All blocks of the known tokens at once: two half-filled prompts could otherwise wait for each other. Fails too if the
// step has no room for a first chunk; a state that is to be loaded may be gone in the next.
bool Scheduler::admit(Sequence& sequence, int budget) {
  // The first token whose logits are due is computed in any case.
  const int usable = limits_.prefix_cache ? std::min(sequence.logits_due, sequence.size() - 1) / kBlockTokens : 0;
  const PrefixCache::Match match = cache_.match(sequence.salt, sequence.tokens, usable);
  if (free_slots_.empty() || better_after_this_step(sequence, match.blocks * kBlockTokens)) return false;
  int64_t reserved = expected_growth(sequence);
  for (const Sequence* other : running_) reserved += expected_growth(*other);
  if (running_.empty()) reserved = 0;  // alone it always gets in
  const int needed = blocks_for(sequence.size()) - match.blocks;

  cache_.hold(match.node);
  sequence.computed = match.blocks * kBlockTokens;
  sequence.fork = match.fork < usable ? match.fork * kBlockTokens : 0;
  if (needed + reserved > cache_.available() || chunk_end(sequence, budget) <= sequence.computed) {
    cache_.release(match.node);
    sequence.computed = sequence.fork = 0;
    return false;
  }
  cache_.append_path(match.node, sequence.blocks);
  cache_.take(needed, sequence.blocks);
  sequence.node = match.node;
  sequence.shared = match.blocks;
  sequence.load = match.snapshot;
  sequence.kept = sequence.computed;
  if (sequence.cached < 0) {
    sequence.cached = sequence.computed;
    queried_tokens_total_ += static_cast<uint64_t>(sequence.prompt);
    cached_tokens_total_ += static_cast<uint64_t>(sequence.computed);
  }
  turn_ = std::max(turn_, sequence.turn);
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  waiting_.erase(&sequence);
  running_.insert(&sequence);
  return true;
}

// Whether this step puts into the cache what is at least half of the work on this prompt, of which `matched` tokens are
// known: of many samples of one prompt only the first is computed.
bool Scheduler::better_after_this_step(const Sequence& sequence, int matched) const {
  if (!limits_.prefix_cache) return false;
  for (size_t i = static_cast<size_t>(planned_.decode_rows); i < planned_.ids.size(); ++i) {
    const SeqSlice& slice = planned_.plan.slices[i];
    const Sequence& other = sequences_.at(planned_.ids[i]);
    if (other.salt != sequence.salt) continue;
    const int ready = limits_.recurrent ? (slice.save < 0 ? 0 : slice.first + slice.save_after)
                                        : (slice.first + slice.count) / kBlockTokens * kBlockTokens;
    const auto end = other.tokens.begin() + std::min(ready, sequence.logits_due);
    const auto last = sequence.tokens.end();
    const int alike = static_cast<int>(std::mismatch(other.tokens.begin(), end, sequence.tokens.begin(), last).first -
                                       other.tokens.begin());
    const int known = limits_.recurrent ? (alike == ready ? ready : 0) : alike / kBlockTokens * kBlockTokens;
    if (2 * (known - matched) >= sequence.size() - matched) return true;
  }
  return false;
}

void Scheduler::retract(Sequence& sequence) {
  release(sequence);
  waiting_.insert(&sequence);
  ++retractions_;
}

void Scheduler::release(Sequence& sequence) {
  running_.erase(&sequence);
  cache_.release(sequence.node);
  cache_.give_back(std::span(sequence.blocks).subspan(static_cast<size_t>(sequence.shared)));
  sequence.blocks.clear();
  free_slots_.push_back(sequence.slot);
  sequence.slot = -1;
  sequence.node = PrefixCache::kRoot;
  sequence.shared = sequence.computed = sequence.fork = sequence.kept = 0;
}

}  // namespace kt
