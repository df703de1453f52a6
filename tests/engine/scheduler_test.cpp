#include "runtime/engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "runtime/base/error.h"

namespace kt {
namespace {

std::vector<int32_t> prompt_of(int length) {
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  for (int i = 0; i < length; ++i) tokens[static_cast<size_t>(i)] = i;
  return tokens;
}

// Plans and runs one step; every sequence at its end gets a token. Returns the plan.
Scheduler::Planned step(Scheduler& scheduler) {
  const Scheduler::Planned planned = scheduler.plan();
  scheduler.finish_step();
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    const SeqSlice& s = planned.plan.slices[i];
    if (s.first + s.count == static_cast<int>(scheduler.tokens(planned.ids[i]).size()))
      scheduler.append(planned.ids[i], 1000);
  }
  return planned;
}

TEST(Scheduler, PlansNothingWithoutSequences) {
  Scheduler scheduler({.slots = 2, .blocks = 4});

  EXPECT_TRUE(scheduler.plan().plan.slices.empty());
}

TEST(Scheduler, PrefillsThenDecodes) {
  Scheduler scheduler({.slots = 2, .blocks = 4});
  scheduler.add({.id = 7, .prompt = prompt_of(70)});

  const auto prefill = step(scheduler);
  const auto decode = step(scheduler);

  ASSERT_EQ(prefill.ids, std::vector<uint64_t>{7});
  EXPECT_EQ(prefill.plan.slices[0].first, 0);
  EXPECT_EQ(prefill.plan.slices[0].count, 70);
  EXPECT_EQ(prefill.plan.slices[0].logits_from, 69);
  EXPECT_EQ(prefill.plan.blocks.size(), 2u);
  ASSERT_EQ(decode.ids, std::vector<uint64_t>{7});
  EXPECT_EQ(decode.plan.slices[0].first, 70);
  EXPECT_EQ(decode.plan.slices[0].count, 1);
  EXPECT_EQ(decode.plan.slices[0].logits_from, 0);
  EXPECT_EQ(decode.plan.tokens, std::vector<int32_t>{1000});
}

TEST(Scheduler, EndsChunksAtMultiplesOfABlockOrAtTheEnd) {
  Scheduler scheduler({.slots = 2, .blocks = 16, .chunk_tokens = 200});
  scheduler.add({.id = 1, .prompt = prompt_of(500)});

  std::vector<std::pair<int, int>> chunks;
  for (int i = 0; i < 3; ++i) {
    const SeqSlice s = step(scheduler).plan.slices.at(0);
    chunks.emplace_back(s.first, s.first + s.count);
    EXPECT_EQ(s.logits_from, i < 2 ? s.count : s.count - 1);
  }

  EXPECT_EQ(chunks, (std::vector<std::pair<int, int>>{{0, 192}, {192, 384}, {384, 500}}));
}

TEST(Scheduler, FillsTheBudgetWithTheNextPrompts) {
  Scheduler scheduler({.slots = 4, .blocks = 64, .chunk_tokens = 256});
  scheduler.add({.id = 1, .prompt = prompt_of(100)});
  scheduler.add({.id = 2, .prompt = prompt_of(300)});
  scheduler.add({.id = 3, .prompt = prompt_of(10)});

  const auto first = step(scheduler);
  const auto second = step(scheduler);

  EXPECT_EQ(first.ids, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(first.plan.slices[1].count, 128);
  EXPECT_EQ(second.ids, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(second.plan.slices[0].first, 128);
  EXPECT_EQ(second.plan.slices[0].count, 172);
}

TEST(Scheduler, PutsPrefillFirstUnlessMixed) {
  for (const bool mixed : {false, true}) {
    Scheduler scheduler({.slots = 4, .blocks = 64, .chunk_tokens = 128, .mixed = mixed});
    scheduler.add({.id = 1, .prompt = prompt_of(10)});
    step(scheduler);
    scheduler.add({.id = 2, .prompt = prompt_of(200)});

    const auto next = step(scheduler);

    if (mixed) {
      EXPECT_EQ(next.ids, (std::vector<uint64_t>{1, 2}));
      EXPECT_EQ(next.plan.slices[1].count, 64);  // the decode row took one of the 128
    } else {
      EXPECT_EQ(next.ids, (std::vector<uint64_t>{2}));
      EXPECT_EQ(next.plan.slices[0].count, 128);
    }
  }
}

TEST(Scheduler, LeavesPrefillABlockBesideAFullDecodeBatch) {
  Scheduler scheduler({.slots = 4, .blocks = 64, .chunk_tokens = 64, .mixed = true});
  for (uint64_t id = 1; id <= 3; ++id) scheduler.add({.id = id, .prompt = prompt_of(3)});
  step(scheduler);
  scheduler.add({.id = 4, .prompt = prompt_of(200)});

  const auto next = step(scheduler);

  EXPECT_EQ(next.ids.size(), 4u);
  EXPECT_EQ(next.plan.slices[3].count, 64);
}

TEST(Scheduler, RunsNoMoreThanItsSlots) {
  Scheduler scheduler({.slots = 2, .blocks = 64});
  for (uint64_t id = 1; id <= 3; ++id) scheduler.add({.id = id, .prompt = prompt_of(5)});

  EXPECT_EQ(step(scheduler).ids, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(scheduler.waiting(), 1);
  scheduler.remove(1);
  EXPECT_EQ(step(scheduler).ids, (std::vector<uint64_t>{3}));
}

TEST(Scheduler, ServesByPriorityThenArrival) {
  Scheduler scheduler({.slots = 1, .blocks = 64});
  scheduler.add({.id = 1, .prompt = prompt_of(5)});
  scheduler.add({.id = 2, .prompt = prompt_of(5), .priority = 1});
  scheduler.add({.id = 3, .prompt = prompt_of(5), .priority = 1});

  for (const uint64_t expected : {2, 3, 1}) {
    EXPECT_EQ(step(scheduler).ids, (std::vector<uint64_t>{expected}));
    scheduler.remove(expected);
  }
}

TEST(Scheduler, LetsNobodyOvertakeALongPrompt) {
  Scheduler scheduler({.slots = 4, .blocks = 4});
  scheduler.add({.id = 1, .prompt = prompt_of(150)});
  step(scheduler);
  scheduler.add({.id = 2, .prompt = prompt_of(200)});
  scheduler.add({.id = 3, .prompt = prompt_of(5)});

  EXPECT_EQ(step(scheduler).ids, (std::vector<uint64_t>{1}));
  EXPECT_EQ(scheduler.waiting(), 2);
}

TEST(Scheduler, RetractsTheYoungestWhenBlocksRunOut) {
  Scheduler scheduler({.slots = 4, .blocks = 4});
  scheduler.add({.id = 1, .prompt = prompt_of(64)});
  scheduler.add({.id = 2, .prompt = prompt_of(60)});
  step(scheduler);
  ASSERT_EQ(scheduler.running(), 2);
  // Both grow into a second block, then 1 needs a third.
  while (scheduler.running() == 2) step(scheduler);

  EXPECT_EQ(scheduler.retractions(), 1u);
  EXPECT_EQ(scheduler.waiting(), 1);
  EXPECT_GT(scheduler.tokens(2).size(), 60u) << "the output stays";
  const size_t tokens = scheduler.tokens(2).size();
  scheduler.remove(1);
  const auto again = step(scheduler);
  ASSERT_EQ(again.ids, (std::vector<uint64_t>{2}));
  EXPECT_EQ(again.plan.slices[0].first, 0);
  EXPECT_EQ(again.plan.slices[0].count, static_cast<int>(tokens));
  EXPECT_EQ(again.plan.slices[0].logits_from, static_cast<int>(tokens) - 1);
}

TEST(Scheduler, RetractsTheLowestPriorityFirst) {
  Scheduler scheduler({.slots = 4, .blocks = 4});
  scheduler.add({.id = 1, .prompt = prompt_of(60), .priority = 0});
  scheduler.add({.id = 2, .prompt = prompt_of(60), .priority = 5});
  step(scheduler);
  while (scheduler.running() == 2) step(scheduler);

  EXPECT_TRUE(scheduler.waiting() == 1 && step(scheduler).ids == std::vector<uint64_t>{2});
}

TEST(Scheduler, SaysWhenASequenceAloneOutgrowsThePool) {
  Scheduler scheduler({.slots = 4, .blocks = 1});
  scheduler.add({.id = 1, .prompt = prompt_of(60)});
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(step(scheduler).out_of_blocks.empty());

  const auto next = step(scheduler);

  EXPECT_EQ(next.out_of_blocks, std::vector<uint64_t>{1});
  EXPECT_TRUE(next.plan.slices.empty());
}

TEST(Scheduler, GivesPromptLogitsOnceAndInBoundedSteps) {
  Scheduler scheduler({.slots = 4, .blocks = 64, .chunk_tokens = 1024, .logit_rows = 128});
  scheduler.add({.id = 1, .prompt = prompt_of(400), .logits_from = 100});
  std::vector<int> positions;
  for (int i = 0; i < 6; ++i) {
    const auto next = step(scheduler);
    EXPECT_LE(next.plan.logit_rows(), 128);
    const SeqSlice s = next.plan.slices.at(0);
    EXPECT_TRUE((s.first + s.count) % kBlockTokens == 0 || s.first + s.count >= 400);
    for (int p = s.logits_from; p < s.count; ++p) positions.push_back(s.first + p);
  }

  for (size_t i = 0; i < positions.size(); ++i) EXPECT_EQ(positions[i], 100 + static_cast<int>(i));
  EXPECT_GT(positions.size(), 300u);
}

TEST(Scheduler, ForgetsASequenceInEveryState) {
  Scheduler scheduler({.slots = 1, .blocks = 8, .chunk_tokens = 64});
  for (uint64_t id = 1; id <= 2; ++id) scheduler.add({.id = id, .prompt = prompt_of(100)});
  step(scheduler);

  scheduler.remove(2);   // waiting
  scheduler.remove(1);   // half prefilled
  scheduler.remove(99);  // unknown

  EXPECT_EQ(scheduler.running() + scheduler.waiting() + scheduler.used_blocks(), 0);
  EXPECT_TRUE(scheduler.plan().plan.slices.empty());
}

TEST(Scheduler, RefusesLimitsThatCannotWork) {
  EXPECT_THROW(Scheduler({.slots = 0, .blocks = 8}), Error);
  EXPECT_THROW(Scheduler({.slots = 1, .blocks = 0}), Error);
  EXPECT_THROW(Scheduler({.slots = 1, .blocks = 8, .chunk_tokens = 63}), Error);
  EXPECT_THROW(Scheduler({.slots = 193, .blocks = 8, .logit_rows = 256}), Error);
  Scheduler scheduler({.slots = 1, .blocks = 1});
  EXPECT_THROW(scheduler.add({.id = 1, .prompt = {}}), Error);
  EXPECT_THROW(scheduler.add({.id = 1, .prompt = prompt_of(65)}), Error);
}

// Random arrivals, ends and aborts against the promises that must hold in every step.
class SchedulerTrace {
 public:
  SchedulerTrace(uint32_t seed, bool mixed) : random_(seed) {
    limits_.slots = 1 + pick(12);
    limits_.blocks = 4 + pick(40);
    limits_.chunk_tokens = 64 + pick(300);
    limits_.logit_rows = limits_.slots + 64 + pick(64);
    limits_.mixed = mixed;
  }

  // Returns how many retractions there were.
  uint64_t run() {
    Scheduler scheduler(limits_);
    uint64_t next_id = 1;
    for (int i = 0; i < 3000 || !left_.empty(); ++i) {
      if (i < 3000 && pick(4) == 0) arrive(scheduler, next_id++);
      if (!left_.empty() && pick(50) == 0)
        end(scheduler, std::next(left_.begin(), pick(static_cast<int>(left_.size())))->first);
      one_step(scheduler);
      if (i > 2'000'000) ADD_FAILURE() << "somebody starves";
      if (::testing::Test::HasFailure()) return 0;
    }
    EXPECT_EQ(scheduler.used_blocks(), 0);
    EXPECT_EQ(scheduler.running() + scheduler.waiting(), 0);
    return scheduler.retractions();
  }

 private:
  int pick(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }

  void arrive(Scheduler& scheduler, uint64_t id) {
    const int pool = limits_.blocks * kBlockTokens, length = 1 + pick(pool - 1);
    scheduler.add(
        {.id = id, .prompt = prompt_of(length), .priority = pick(3), .logits_from = pick(5) ? -1 : pick(length)});
    left_[id] = 1 + pick(std::min(200, pool - length));
    computed_[id] = 0;
  }

  void end(Scheduler& scheduler, uint64_t id) {
    scheduler.remove(id);
    left_.erase(id);
    computed_.erase(id);
  }

  void one_step(Scheduler& scheduler) {
    const Scheduler::Planned& planned = scheduler.plan();
    EXPECT_TRUE(planned.out_of_blocks.empty()) << "answers are clamped to the pool";
    EXPECT_EQ(planned.plan.slices.empty(), left_.empty()) << "work waits and nothing runs";
    EXPECT_LE(planned.plan.rows(), max_step_rows(limits_));
    EXPECT_LE(planned.plan.logit_rows(), limits_.logit_rows);
    decode_step_plan(encode(planned.plan));
    std::set<int32_t> blocks(planned.plan.blocks.begin(), planned.plan.blocks.end()), slots;
    EXPECT_EQ(blocks.size(), planned.plan.blocks.size()) << "a block belongs to two sequences";
    for (size_t i = 0; i < planned.ids.size(); ++i)
      check_slice(scheduler, planned.ids[i], planned.plan.slices[i], slots);
    scheduler.finish_step();
    EXPECT_LE(scheduler.running(), limits_.slots);
    const std::vector<uint64_t> ids = planned.ids;
    for (const uint64_t id : ids) {
      if (computed_.at(id) < static_cast<int>(scheduler.tokens(id).size())) continue;
      scheduler.append(id, 1);
      if (--left_.at(id) == 0) end(scheduler, id);
    }
  }

  void check_slice(Scheduler& scheduler, uint64_t id, const SeqSlice& s, std::set<int32_t>& slots) {
    EXPECT_TRUE(slots.insert(s.slot).second);
    EXPECT_LT(s.slot, limits_.slots);
    int& computed = computed_.at(id);
    EXPECT_TRUE(s.first == computed || s.first == 0) << "only retraction goes back";
    computed = s.first + s.count;
    const int size = static_cast<int>(scheduler.tokens(id).size());
    EXPECT_LE(computed, size);
    EXPECT_TRUE(computed == size || computed % kBlockTokens == 0);
    EXPECT_TRUE(computed < size || s.logits_from < s.count) << "a finished prompt gives logits";
  }

  std::mt19937 random_;
  SchedulerLimits limits_;
  std::map<uint64_t, int> left_;      // output tokens that a sequence still wants
  std::map<uint64_t, int> computed_;  // positions in the cache
};

TEST(Scheduler, KeepsItsPromisesOnRandomTraces) {
  uint64_t retractions = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    retractions += SchedulerTrace(seed, seed % 2 == 1).run();
    if (HasFailure()) return;
  }
  EXPECT_GT(retractions, 100u) << "the traces do not reach what they are for";
}

}  // namespace
}  // namespace kt
