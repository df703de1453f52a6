#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine/prefix_cache.h"
#include "runtime/step/step.h"

namespace kt {

struct SchedulerLimits {
  int slots = 32;            // running sequences
  int blocks = 0;            // KV pool
  int chunk_tokens = 2048;   // token budget of a step with prefill, at least kBlockTokens
  int logit_rows = 256;      // of a step, at least slots + kBlockTokens
  bool mixed = false;        // decode rows ride along with prefill chunks
  bool prefix_cache = true;  // blocks of sequences that left are used again
  bool recurrent = false;    // the model has states: a prefix is of use only where one was saved
  int snapshots = 0;         // of them
};

// The most tokens of one step: a full batch of decode rows never keeps a block of prefill out.
int max_step_rows(const SchedulerLimits& limits);

// A sequence enters with its prompt.
struct NewSequence {
  uint64_t id = 0;
  std::vector<int32_t> prompt;  // not empty; fits the pool
  int priority = 0;             // a point is worth a head start of kHeadStart arrivals
  int max_answer = -1;          // tokens; -1: not known
  int logits_from = -1;         // first prompt position whose logits are wanted; -1: the last one's only
  std::string salt = {};        // shares cached prefixes only with those that have the same
  std::string client = {};      // whose it is: clients take turns
};

// Chooses what the next step computes: continuous batching over a paged KV cache with shared prefixes, prompts in
// chunks. A pure state machine without clock, threads, ranks or text. Its order is arrival, except that clients take
// turns (who asks for much does not keep out who asks for little), moved forward by priority; every choice follows it:
//   admission   in order, nobody overtakes; a sequence enters when a slot and the blocks of all its tokens can be had
//   and
//               those that run keep room to grow. What the cache knows of its beginning is not computed again.
//   prefill     before decode (or with it, if mixed), as far as the caller lets it keep running answers waiting; chunks
//               end at absolute multiples of kBlockTokens or at the end
//   retraction  when a decode row finds no block, the last in the order leaves: its blocks can be had by others, its
//               tokens stay, and it waits in its old place to be prefilled again from what is left in the cache
// The first in the order thus always advances, and everybody becomes first: only finitely many that come later have the
// turn or the priority to get ahead.
//
// Use: add and remove between steps; plan(); run it; finish_step(); then append the sampled tokens.
class Scheduler {
 public:
  // A full queue by default: one point of priority overtakes all who wait, and yet nobody waits for ever.
  static constexpr int64_t kHeadStart = 1024;
  static constexpr int kNoBound = std::numeric_limits<int>::max();

  explicit Scheduler(const SchedulerLimits& limits);

  void add(NewSequence sequence);
  // Ends a sequence in whatever state; unknown ids are ignored.
  void remove(uint64_t id);

  // The next step; without slices when nothing can run, which is only when there is no sequence. `ids` has the
  // sequence of each slice.
  struct Planned {
    StepPlan plan;
    std::vector<uint64_t> ids;
    int decode_rows = 0;                  // of them; the first slices
    std::vector<uint64_t> out_of_blocks;  // alone and yet too long for the pool: the caller must remove them
  };
  // While there are answers to go on with, at most prefill_tokens of the step are of prompts: 0 or at least
  // kBlockTokens.
  const Planned& plan(int prefill_tokens = kNoBound);
  // The planned step was run: its tokens are in the cache.
  void finish_step();
  // The planned step was not run, or in part: its sequences are computed again from what the cache has of them.
  void undo_step();
  // The token that follows the sequence, sampled from its last logits.
  void append(uint64_t id, int32_t token);
  // Empties the prefix cache; false if sequences run.
  bool flush_cache();

  std::span<const int32_t> tokens(uint64_t id) const;  // prompt and output
  int cached_tokens(uint64_t id) const;                // of the prompt, found in the cache when the sequence first ran
  uint64_t queried_tokens_total() const { return queried_tokens_total_; }  // of prompts, looked up in the cache
  uint64_t cached_tokens_total() const { return cached_tokens_total_; }    // and found there
  uint64_t evicted_tokens_total() const { return cache_.evicted() * kBlockTokens; }
  int waiting() const { return static_cast<int>(waiting_.size()); }
  int running() const { return static_cast<int>(running_.size()); }
  int retracted() const;                                                   // of the waiting ones, those that ran before
  int used_blocks() const { return cache_.total() - cache_.available(); }  // by those that run
  int cached_blocks() const { return cache_.cached(); }                    // by nobody, and kept
  int used_snapshots() const { return cache_.used_snapshots(); }
  uint64_t retractions() const { return retractions_; }

 private:
  struct Sequence {
    uint64_t id = 0;
    int64_t turn = 0;   // its number among its client's, counted from the turn that the others had reached
    int64_t place = 0;  // in the order
    uint64_t arrival = 0;
    std::string salt;
    std::vector<int32_t> tokens;  // prompt, then output
    int prompt = 0, max_answer = 0;
    std::vector<int32_t> blocks;  // the first `shared` are in the cache, held by their last, `node`
    int shared = 0;
    int32_t node = PrefixCache::kRoot;
    int32_t slot = -1;
    int computed = 0;        // tokens in the cache
    int logits_due = 0;      // first position whose logits are still wanted; survives retraction
    int cached = -1;         // tokens that were found in the cache; -1: has not run yet
    int32_t load = -1;       // snapshot to start from
    int fork = 0, kept = 0;  // recurrent: where a state should be saved, and up to where one was

    int size() const { return static_cast<int>(tokens.size()); }
    // All but the newest token are in the cache, and that one was sampled.
    bool decoding() const { return size() > prompt && computed == size() - 1; }
  };
  struct Earlier {
    bool operator()(const Sequence* a, const Sequence* b) const;
  };
  using Order = std::set<Sequence*, Earlier>;

  int64_t next_turn(const std::string& client);
  void plan_decode();
  void plan_prefill(int budget);
  bool grow(Sequence& sequence);
  int expected_growth(const Sequence& sequence) const;
  bool admit(Sequence& sequence, int budget);
  bool better_after_this_step(const Sequence& sequence, int matched) const;
  void retract(Sequence& sequence);
  void release(Sequence& sequence);
  int chunk_end(const Sequence& sequence, int budget) const;
  bool add_chunk(Sequence& sequence, int& budget);
  void add_slice(Sequence& sequence, int count);
  int state_to_save(const Sequence& sequence, int end) const;
  void share_blocks(Sequence& sequence);
  void keep_state(Sequence& sequence, int position, int32_t snapshot);

  SchedulerLimits limits_;
  PrefixCache cache_;
  std::vector<int32_t> free_slots_;
  std::map<uint64_t, Sequence> sequences_;  // nodes stay in place: the orders point to them
  Order waiting_, running_;
  std::map<std::string, int64_t> last_turn_;  // of each client, where it is beyond turn_
  int64_t turn_ = 0;                          // the furthest one that was admitted
  uint64_t arrivals_ = 0, steps_ = 0, retractions_ = 0, queried_tokens_total_ = 0, cached_tokens_total_ = 0;
  Planned planned_;
};

}  // namespace kt
