#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "runtime/engine/blocks.h"
#include "runtime/model/step.h"

namespace kt {

struct SchedulerLimits {
  int slots = 32;           // running sequences
  int blocks = 0;           // KV pool
  int chunk_tokens = 2048;  // token budget of a step with prefill, at least kBlockTokens
  int logit_rows = 256;     // of a step, at least slots + kBlockTokens
  bool mixed = false;       // decode rows ride along with prefill chunks
};

// The most tokens of one step: a full batch of decode rows never keeps a block of prefill out.
int max_step_rows(const SchedulerLimits& limits);

// A sequence enters with its prompt.
struct NewSequence {
  uint64_t id = 0;
  std::vector<int32_t> prompt;  // not empty; fits the pool
  int priority = 0;             // higher goes first
  int logits_from = -1;         // first prompt position whose logits are wanted; -1: the last one's only
};

// Chooses what the next step computes: continuous batching over a paged KV cache, prompts in chunks. A pure state
// machine without clock, threads, ranks or text. Its order is priority, then arrival; every choice follows it:
//   admission   in order, nobody overtakes; a sequence enters when a slot and the blocks of all its tokens are free
//   prefill     before decode (or with it, if mixed); chunks end at absolute multiples of kBlockTokens or at the end
//   retraction  when a decode row finds no free block, the last in the order leaves: its blocks are free, its tokens
//               stay, and it waits in its old place to be prefilled again
// The first in the order thus always advances, and everybody becomes first.
//
// Use: add and remove between steps; plan(); run it; finish_step(); then append the sampled tokens.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  void add(NewSequence sequence);
  // Ends a sequence in whatever state; unknown ids are ignored.
  void remove(uint64_t id);

  // The next step; without slices when nothing can run, which is only when there is no sequence. `ids` has the
  // sequence of each slice.
  struct Planned {
    StepPlan plan;
    std::vector<uint64_t> ids;
    std::vector<uint64_t> out_of_blocks;  // alone and yet too long for the pool: the caller must remove them
  };
  const Planned& plan();
  // The planned step was run: its tokens are in the cache.
  void finish_step();
  // The token that follows the sequence, sampled from its last logits.
  void append(uint64_t id, int32_t token);

  std::span<const int32_t> tokens(uint64_t id) const;  // prompt and output
  int waiting() const { return static_cast<int>(waiting_.size()); }
  int running() const { return static_cast<int>(running_.size()); }
  int used_blocks() const { return blocks_.total() - blocks_.free_count(); }
  uint64_t retractions() const { return retractions_; }

 private:
  struct Sequence {
    uint64_t id = 0, arrival = 0;
    int priority = 0;
    std::vector<int32_t> tokens;  // prompt, then output
    int prompt = 0;               // tokens of the prompt
    std::vector<int32_t> blocks;
    int32_t slot = -1;
    int computed = 0;    // tokens in the cache; a prefix cache would start it above 0 and hand over its blocks
    int logits_due = 0;  // first position whose logits are still wanted; survives retraction

    int size() const { return static_cast<int>(tokens.size()); }
    // All but the newest token are in the cache, and that one was sampled.
    bool decoding() const { return size() > prompt && computed == size() - 1; }
  };
  struct Earlier {
    bool operator()(const Sequence* a, const Sequence* b) const;
  };
  using Order = std::set<Sequence*, Earlier>;

  void plan_decode();
  void plan_prefill();
  bool grow(Sequence& sequence);
  bool admit(Sequence& sequence);
  void retract(Sequence& sequence);
  void release(Sequence& sequence);
  bool add_chunk(Sequence& sequence, int& budget);
  void add_slice(Sequence& sequence, int count);

  SchedulerLimits limits_;
  BlockAllocator blocks_;
  std::vector<int32_t> free_slots_;
  std::map<uint64_t, Sequence> sequences_;  // nodes stay in place: the orders point to them
  Order waiting_, running_;
  uint64_t arrivals_ = 0, steps_ = 0, retractions_ = 0;
  Planned planned_;
};

}  // namespace kt
