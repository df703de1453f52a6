#include "runtime/engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "runtime/base/error.h"
#include "tests/engine/fakes.h"

namespace kt {
namespace {

// Prompts of two families have no block in common.
std::vector<int32_t> prompt_of(int length, int family = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  for (int i = 0; i < length; ++i) tokens[static_cast<size_t>(i)] = 10'000 * family + i;
  return tokens;
}

// The first `shared` tokens of family 0, then those of another.
std::vector<int32_t> branch_of(int shared, int length, int family) {
  std::vector<int32_t> tokens = prompt_of(length, family);
  const std::vector<int32_t> trunk = prompt_of(shared);
  std::copy(trunk.begin(), trunk.end(), tokens.begin());
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

TEST(Scheduler, TheLargestChunkTakesAllThatIsLeftOfAPrompt) {
  Scheduler scheduler({.slots = 2, .blocks = 16, .chunk_tokens = std::numeric_limits<int>::max()});
  scheduler.add({.id = 1, .prompt = prompt_of(128)});
  step(scheduler);
  scheduler.remove(1);
  scheduler.add({.id = 2, .prompt = prompt_of(300)});

  const SeqSlice slice = step(scheduler).plan.slices.at(0);

  EXPECT_EQ(slice.first, 128) << "the cache has the beginning";
  EXPECT_EQ(slice.count, 172);
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

TEST(Scheduler, ComputesAgainWhatWasInAStepThatIsUndoneAndKeepsOthersRunning) {
  Scheduler scheduler({.slots = 2, .blocks = 16, .recurrent = true, .snapshots = 2});
  scheduler.add({.id = 1, .prompt = prompt_of(70)});
  step(scheduler);
  scheduler.add({.id = 2, .prompt = prompt_of(130, 1)});
  ASSERT_EQ(scheduler.plan().ids, std::vector<uint64_t>{2}) << "a prompt, whose state at 128 is to be kept";
  ASSERT_EQ(scheduler.used_snapshots(), 2);

  scheduler.undo_step();

  EXPECT_EQ(scheduler.used_snapshots(), 1) << "nothing was saved";
  EXPECT_EQ(scheduler.running(), 1);
  const auto again = step(scheduler);
  ASSERT_EQ(again.ids, std::vector<uint64_t>{2});
  EXPECT_EQ(again.plan.slices[0].first, 0);
  EXPECT_EQ(again.plan.slices[0].count, 130);

  ASSERT_EQ(scheduler.plan().decode_rows, 2);
  scheduler.undo_step();

  const auto both = step(scheduler);
  ASSERT_EQ(both.ids, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(both.plan.slices[0].first, 64) << "from the state that was kept";
  EXPECT_EQ(both.plan.slices[0].count, 7) << "the newest token too";
  EXPECT_EQ(both.plan.slices[0].logits_from, 6);
  EXPECT_EQ(both.plan.slices[1].first, 128);
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
  EXPECT_EQ(again.plan.slices[0].first, 64) << "its full block is still there";
  EXPECT_EQ(again.plan.slices[0].count, static_cast<int>(tokens) - 64);
  EXPECT_EQ(again.plan.slices[0].logits_from, static_cast<int>(tokens) - 65);
  EXPECT_EQ(again.plan.slices[0].prompt, 60) << "the output is no part of it";
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

TEST(Scheduler, ServesALowPriorityAfterAHeadStart) {
  Scheduler scheduler({.slots = 1, .blocks = 64});
  scheduler.add({.id = 1, .prompt = prompt_of(5)});
  int served = 0;
  for (uint64_t id = 2;; ++id, ++served) {
    scheduler.add({.id = id, .prompt = prompt_of(5), .priority = 1});
    const uint64_t first = step(scheduler).ids.at(0);
    if (first == 1) break;
    scheduler.remove(first);
    ASSERT_LT(served, 2 * Scheduler::kHeadStart);
  }

  EXPECT_GE(served, Scheduler::kHeadStart - 1);
}

// The client of each sequence in the order in which they run, one at a time; `arrivals` name clients.
std::string order_of(const std::string& arrivals, Scheduler& scheduler) {
  for (size_t i = 0; i < arrivals.size(); ++i)
    scheduler.add({.id = i, .prompt = prompt_of(5), .client = arrivals.substr(i, 1)});
  std::string order;
  for (size_t i = 0; i < arrivals.size(); ++i) {
    const uint64_t id = step(scheduler).ids.at(0);
    order += arrivals[id];
    scheduler.remove(id);
  }
  return order;
}

TEST(Scheduler, LetsClientsTakeTurns) {
  Scheduler scheduler({.slots = 1, .blocks = 8});

  EXPECT_EQ(order_of("aaaaabbc", scheduler), "abcabaaa");
  EXPECT_EQ(order_of("baab", scheduler), "baab") << "what was had before does not count";
}

TEST(Scheduler, NeverLetsNewClientsKeepOutAWaitingOne) {
  Scheduler scheduler({.slots = 1, .blocks = 8});
  for (uint64_t id = 0; id < 20; ++id) scheduler.add({.id = id, .prompt = prompt_of(5), .client = "busy"});

  uint64_t stranger = 100, ran = 0;
  for (; ran != 19 && stranger < 1000; ++stranger) {
    scheduler.add({.id = stranger, .prompt = prompt_of(5), .client = std::to_string(stranger)});
    ran = step(scheduler).ids.at(0);
    scheduler.remove(ran);
  }
  EXPECT_EQ(ran, 19u);
  EXPECT_LT(stranger, 100u + 20 * 21 / 2 + 20) << "each turn has one more stranger than the one before";
}

TEST(Scheduler, StartsBehindWhatIsCached) {
  Scheduler scheduler({.slots = 2, .blocks = 16});
  scheduler.add({.id = 1, .prompt = prompt_of(200)});
  const auto first = step(scheduler);
  scheduler.remove(1);
  EXPECT_EQ(scheduler.used_blocks(), 0);
  EXPECT_EQ(scheduler.cached_blocks(), 3);

  scheduler.add({.id = 2, .prompt = branch_of(150, 300, 1)});
  const auto second = step(scheduler);

  EXPECT_EQ(second.plan.slices.at(0).first, 128);
  EXPECT_EQ(second.plan.slices[0].count, 172);
  EXPECT_EQ(second.plan.blocks[0], first.plan.blocks[0]);
  EXPECT_EQ(second.plan.blocks[1], first.plan.blocks[1]);
  EXPECT_EQ(scheduler.cached_tokens(2), 128);
  EXPECT_EQ(scheduler.cached_tokens_total(), 128u);
}

TEST(Scheduler, ComputesAtLeastTheLastTokenOfAPrompt) {
  Scheduler scheduler({.slots = 1, .blocks = 16});
  for (uint64_t id = 1; id <= 2; ++id) {
    scheduler.add({.id = id, .prompt = prompt_of(192)});
    const SeqSlice slice = step(scheduler).plan.slices.at(0);
    EXPECT_EQ(slice.first, id == 1 ? 0 : 128);
    EXPECT_EQ(slice.logits_from, slice.count - 1);
    scheduler.remove(id);
  }
}

TEST(Scheduler, ComputesWhatPromptLogitsAreWantedOf) {
  Scheduler scheduler({.slots = 1, .blocks = 16});
  for (uint64_t id = 1; id <= 2; ++id) {
    scheduler.add({.id = id, .prompt = prompt_of(200), .logits_from = 70});
    const SeqSlice slice = step(scheduler).plan.slices.at(0);
    EXPECT_EQ(slice.first, id == 1 ? 0 : 64);
    EXPECT_EQ(slice.first + slice.logits_from, 70);
    scheduler.remove(id);
  }
}

TEST(Scheduler, SharesNothingBetweenSalts) {
  Scheduler scheduler({.slots = 1, .blocks = 16});
  const std::pair<std::string, int> expected[] = {{"a", 0}, {"b", 0}, {"", 0}, {"a", 128}, {"", 128}};
  for (uint64_t id = 0; id < std::size(expected); ++id) {
    scheduler.add({.id = id, .prompt = prompt_of(150), .salt = expected[id].first});
    EXPECT_EQ(step(scheduler).plan.slices.at(0).first, expected[id].second) << id;
    scheduler.remove(id);
  }
}

TEST(Scheduler, SharesThePromptOfASequenceThatStillRuns) {
  Scheduler scheduler({.slots = 4, .blocks = 16});
  scheduler.add({.id = 1, .prompt = prompt_of(150)});
  step(scheduler);

  scheduler.add({.id = 2, .prompt = prompt_of(150)});
  EXPECT_EQ(step(scheduler).plan.slices.at(0).first, 128);
  EXPECT_EQ(scheduler.used_blocks(), 4) << "two shared, and the end of each";
}

TEST(Scheduler, ComputesAPromptOnceForManySamples) {
  Scheduler scheduler({.slots = 8, .blocks = 64});
  for (uint64_t id = 1; id <= 5; ++id) scheduler.add({.id = id, .prompt = prompt_of(500)});

  const auto first = step(scheduler);
  const auto second = step(scheduler);

  EXPECT_EQ(first.ids, std::vector<uint64_t>{1});
  EXPECT_EQ(second.ids, (std::vector<uint64_t>{2, 3, 4, 5}));
  for (const SeqSlice& s : second.plan.slices) EXPECT_EQ(s.first, 448);
}

TEST(Scheduler, DoesNotWaitForALittleSharing) {
  Scheduler scheduler({.slots = 8, .blocks = 64});
  for (int id = 1; id <= 3; ++id) scheduler.add({.id = static_cast<uint64_t>(id), .prompt = branch_of(70, 500, id)});

  EXPECT_EQ(step(scheduler).ids.size(), 3u);
  EXPECT_EQ(scheduler.used_blocks(), 22) << "equal blocks are kept once, though they were computed in one step";
}

TEST(Scheduler, ForgetsTheCacheOnlyWhenNobodyRuns) {
  Scheduler scheduler({.slots = 1, .blocks = 16});
  scheduler.add({.id = 1, .prompt = prompt_of(200)});
  step(scheduler);
  EXPECT_FALSE(scheduler.flush_cache());
  scheduler.remove(1);

  EXPECT_TRUE(scheduler.flush_cache());

  EXPECT_EQ(scheduler.cached_blocks(), 0);
}

TEST(Scheduler, EvictsInsteadOfRetracting) {
  Scheduler scheduler({.slots = 2, .blocks = 4});
  scheduler.add({.id = 1, .prompt = prompt_of(192)});
  step(scheduler);
  scheduler.remove(1);
  ASSERT_EQ(scheduler.cached_blocks(), 3);

  scheduler.add({.id = 2, .prompt = prompt_of(60, 1)});
  for (int i = 0; i < 150; ++i) step(scheduler);

  EXPECT_EQ(scheduler.retractions(), 0u);
  EXPECT_EQ(scheduler.used_blocks(), 4);
}

TEST(Scheduler, KeepsRoomForAnswersToGoOnAsLongAsTheyHave) {
  Scheduler scheduler({.slots = 4, .blocks = 8});
  scheduler.add({.id = 1, .prompt = prompt_of(10), .max_answer = 1000});
  for (int i = 0; i < 140; ++i) step(scheduler);
  // 150 tokens in 3 blocks, and as many more in 2: three are left.
  scheduler.add({.id = 2, .prompt = prompt_of(150, 1), .max_answer = 1});
  EXPECT_EQ(step(scheduler).ids, (std::vector<uint64_t>{2}));
  scheduler.remove(2);
  scheduler.add({.id = 3, .prompt = prompt_of(200, 2), .max_answer = 1});
  EXPECT_EQ(step(scheduler).ids, (std::vector<uint64_t>{1}));
  EXPECT_EQ(scheduler.waiting(), 1);
}

TEST(Scheduler, KeepsNoRoomThatAnAnswerCannotUse) {
  Scheduler scheduler({.slots = 4, .blocks = 8});
  scheduler.add({.id = 1, .prompt = prompt_of(10), .max_answer = 160});
  for (int i = 0; i < 140; ++i) step(scheduler);

  scheduler.add({.id = 2, .prompt = prompt_of(300, 1), .max_answer = 1});

  EXPECT_EQ(step(scheduler).ids, (std::vector<uint64_t>{2}));
}

TEST(Scheduler, LetsPrefillHoldUpAnswersOnlyAsFarAsAllowed) {
  for (const bool mixed : {false, true}) {
    Scheduler scheduler({.slots = 4, .blocks = 64, .mixed = mixed});
    scheduler.add({.id = 1, .prompt = prompt_of(500, 1)});
    scheduler.plan(64);
    scheduler.finish_step();
    ASSERT_EQ(scheduler.tokens(1).size(), 500u);
    scheduler.append(1, 7);  // nobody was kept waiting: the whole prompt at once
    scheduler.add({.id = 2, .prompt = prompt_of(500)});

    const Scheduler::Planned bounded = scheduler.plan(128);

    EXPECT_EQ(bounded.ids, mixed ? (std::vector<uint64_t>{1, 2}) : std::vector<uint64_t>{2});
    EXPECT_EQ(bounded.plan.slices.back().count, 128);
    EXPECT_EQ(bounded.decode_rows, mixed ? 1 : 0);
    scheduler.finish_step();
    if (mixed) scheduler.append(1, 7);
    const Scheduler::Planned none = scheduler.plan(0);
    EXPECT_EQ(none.ids, std::vector<uint64_t>{1});
    EXPECT_EQ(none.decode_rows, 1);
  }
}

TEST(Scheduler, SavesTheStateThatARepetitionStartsFrom) {
  Scheduler scheduler({.slots = 1, .blocks = 16, .recurrent = true, .snapshots = 4});
  for (const int length : {200, 192}) {
    for (int turn = 0; turn < 2; ++turn) {
      scheduler.add({.id = 1, .prompt = prompt_of(length, length)});
      const SeqSlice slice = step(scheduler).plan.slices.at(0);
      const int boundary = length == 200 ? 192 : 128;
      EXPECT_EQ(slice.first, turn == 0 ? 0 : boundary);
      EXPECT_EQ(slice.load >= 0, turn == 1);
      EXPECT_EQ(slice.save >= 0, turn == 0) << "once is enough";
      EXPECT_EQ(slice.save_after, turn == 0 ? boundary : 0);
      scheduler.remove(1);
    }
  }
  EXPECT_EQ(scheduler.used_snapshots(), 2);
}

TEST(Scheduler, SavesTheStateWherePathsPart) {
  Scheduler scheduler({.slots = 1, .blocks = 32, .recurrent = true, .snapshots = 8});
  std::vector<std::pair<int, int>> slices;
  for (int id = 1; id <= 3; ++id) {
    scheduler.add({.id = static_cast<uint64_t>(id), .prompt = branch_of(200, 400, id)});
    while (scheduler.tokens(static_cast<uint64_t>(id)).size() == 400) {
      const SeqSlice s = step(scheduler).plan.slices.at(0);
      slices.emplace_back(s.first, s.first + s.count);
    }
    scheduler.remove(static_cast<uint64_t>(id));
  }

  EXPECT_EQ(slices, (std::vector<std::pair<int, int>>{{0, 400}, {0, 192}, {192, 400}, {192, 400}}));
}

TEST(Scheduler, SavesStatesOnTheWayThroughALongPrompt) {
  Scheduler scheduler({.slots = 1, .blocks = 200, .chunk_tokens = 1024, .recurrent = true, .snapshots = 8});
  scheduler.add({.id = 1, .prompt = prompt_of(9000)});
  std::vector<int> saved;
  while (scheduler.tokens(1).size() == 9000) {
    const SeqSlice s = step(scheduler).plan.slices.at(0);
    if (s.save >= 0) saved.push_back(s.first + s.save_after);
  }

  EXPECT_EQ(saved, (std::vector<int>{2048, 4096, 6144, 8192, 8960}));
}

TEST(Scheduler, KeepsOnlyTheNewestStateOfAnAnswer) {
  Scheduler scheduler({.slots = 1, .blocks = 32, .recurrent = true, .snapshots = 8});
  scheduler.add({.id = 1, .prompt = prompt_of(100)});
  for (int i = 0; i < 400; ++i) step(scheduler);
  EXPECT_EQ(scheduler.used_snapshots(), 2) << "of the prompt and of the answer";

  // 499 tokens are computed, the last full block ends at 448.
  std::vector<int32_t> next_turn(scheduler.tokens(1).begin(), scheduler.tokens(1).end());
  next_turn.resize(600, 5);
  scheduler.remove(1);
  scheduler.add({.id = 2, .prompt = next_turn});
  EXPECT_EQ(step(scheduler).plan.slices.at(0).first, 448);
}

TEST(Scheduler, OfARecurrentModelWithoutSnapshotsReusesNothing) {
  Scheduler scheduler({.slots = 1, .blocks = 16, .recurrent = true, .snapshots = 0});
  for (uint64_t id = 1; id <= 2; ++id) {
    scheduler.add({.id = id, .prompt = prompt_of(200)});
    const SeqSlice slice = step(scheduler).plan.slices.at(0);
    EXPECT_EQ(slice.first, 0);
    EXPECT_EQ(slice.save, -1);
    scheduler.remove(id);
  }
}

enum class Memory { none, attention, recurrent };

// Random arrivals, ends and aborts against the promises that must hold in every step. Prompts have few beginnings, and
// every token of an answer is held to what the model says without scheduler.
class SchedulerTrace {
 public:
  SchedulerTrace(uint32_t seed, bool mixed, Memory memory) : random_(seed) {
    limits_.slots = 1 + pick(12);
    limits_.blocks = 4 + pick(40);
    limits_.chunk_tokens = 64 + pick(300);
    limits_.logit_rows = limits_.slots + 64 + pick(64);
    limits_.mixed = mixed;
    limits_.prefix_cache = memory != Memory::none;
    limits_.recurrent = memory == Memory::recurrent;
    limits_.snapshots = limits_.recurrent ? 1 + pick(12) : 0;
  }

  struct Counts {
    uint64_t retractions = 0, cached_tokens = 0;
  };
  Counts run() {
    Scheduler scheduler(limits_);
    testing::PagedFakeModel model(limits_.blocks, kVocab, testing::letter_after,
                                  limits_.recurrent ? limits_.snapshots : -1);
    uint64_t next_id = 1;
    for (int i = 0; i < 1500 || !left_.empty(); ++i) {
      if (i < 1500 && pick(4) == 0) arrive(scheduler, next_id++);
      if (!left_.empty() && pick(50) == 0)
        end(scheduler, std::next(left_.begin(), pick(static_cast<int>(left_.size())))->first);
      one_step(scheduler, model);
      if (i > 2'000'000) ADD_FAILURE() << "somebody starves";
      if (::testing::Test::HasFailure()) return {};
    }
    EXPECT_EQ(scheduler.used_blocks(), 0);
    EXPECT_EQ(scheduler.running() + scheduler.waiting(), 0);
    EXPECT_TRUE(scheduler.flush_cache());
    EXPECT_EQ(scheduler.cached_blocks() + scheduler.used_snapshots(), 0);
    return {scheduler.retractions(), scheduler.cached_tokens_total()};
  }

 private:
  static constexpr int kVocab = 128;

  int pick(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }

  void arrive(Scheduler& scheduler, uint64_t id) {
    const int pool = limits_.blocks * kBlockTokens, length = 1 + pick(pool - 1),
              answer = 1 + pick(std::min(200, pool - length));
    std::vector<int32_t> prompt(static_cast<size_t>(length));
    int family = 0;
    for (int i = 0; i < length; ++i) {
      if (i % kBlockTokens == 0 && pick(6) == 0) ++family;
      prompt[static_cast<size_t>(i)] = (i + family) % kVocab;
    }
    scheduler.add({.id = id,
                   .prompt = std::move(prompt),
                   .priority = pick(3),
                   .max_answer = pick(2) ? answer : -1,
                   .logits_from = pick(5) ? -1 : pick(length),
                   .salt = pick(10) ? "" : "salt",
                   .client = std::to_string(pick(4))});
    left_[id] = answer;
    computed_[id] = 0;
  }

  void end(Scheduler& scheduler, uint64_t id) {
    scheduler.remove(id);
    left_.erase(id);
    computed_.erase(id);
  }

  void one_step(Scheduler& scheduler, StepRunner& model) {
    const int bound = std::array{0, 64, 192, Scheduler::kNoBound}[static_cast<size_t>(pick(4))];
    const Scheduler::Planned& planned = scheduler.plan(bound);
    EXPECT_TRUE(planned.out_of_blocks.empty()) << "answers are clamped to the pool";
    EXPECT_EQ(planned.plan.slices.empty(), left_.empty()) << "work waits and nothing runs";
    EXPECT_LE(planned.plan.rows(), max_step_rows(limits_));
    EXPECT_LE(planned.plan.logit_rows(), limits_.logit_rows);
    EXPECT_LE(scheduler.used_blocks() + scheduler.cached_blocks(), limits_.blocks);
    EXPECT_LE(scheduler.used_snapshots(), limits_.snapshots);
    std::set<int32_t> slots;
    for (size_t i = 0; i < planned.ids.size(); ++i)
      check_slice(scheduler, planned.ids[i], planned.plan.slices[i], slots);
    const std::span<const float> logits = model.run(planned.plan);
    scheduler.finish_step();
    EXPECT_LE(scheduler.running(), limits_.slots);
    int row = 0;
    const std::vector<uint64_t> ids = planned.ids;
    for (size_t i = 0; i < ids.size(); ++i) {
      const uint64_t id = ids[i];
      row += planned.plan.slices[i].count - planned.plan.slices[i].logits_from;
      if (computed_.at(id) < static_cast<int>(scheduler.tokens(id).size())) continue;
      const int32_t token = testing::letter_after(scheduler.tokens(id));
      EXPECT_GT(logits[static_cast<size_t>((row - 1) * kVocab + token)], 0.0f) << "the answer is another";
      scheduler.append(id, token);
      if (--left_.at(id) == 0) end(scheduler, id);
    }
  }

  void check_slice(Scheduler& scheduler, uint64_t id, const SeqSlice& s, std::set<int32_t>& slots) {
    EXPECT_TRUE(slots.insert(s.slot).second);
    EXPECT_LT(s.slot, limits_.slots);
    int& computed = computed_.at(id);
    EXPECT_TRUE(s.first == computed || s.first % kBlockTokens == 0) << "only who was retracted goes back";
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
  for (const Memory memory : {Memory::none, Memory::attention, Memory::recurrent}) {
    SchedulerTrace::Counts sum;
    for (uint32_t seed = 0; seed < 16; ++seed) {
      SCOPED_TRACE(seed);
      const SchedulerTrace::Counts counts = SchedulerTrace(seed, seed % 2 == 1, memory).run();
      if (HasFailure()) return;
      sum.retractions += counts.retractions;
      sum.cached_tokens += counts.cached_tokens;
    }
    EXPECT_GT(sum.retractions, 30u) << "the traces do not reach what they are for";
    EXPECT_EQ(sum.cached_tokens > 10'000, memory != Memory::none);
  }
}

}  // namespace
}  // namespace kt
