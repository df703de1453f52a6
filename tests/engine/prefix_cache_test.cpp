#include "runtime/engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "runtime/base/error.h"

namespace kt {
namespace {

// Blocks of one repeated token each.
std::vector<int32_t> tokens_of(std::initializer_list<int32_t> blocks) {
  std::vector<int32_t> tokens;
  for (const int32_t token : blocks) tokens.insert(tokens.end(), kBlockTokens, token);
  return tokens;
}

// Takes blocks for the tokens and leaves them in the tree, held. Returns the last node.
int32_t put(PrefixCache& cache, const std::vector<int32_t>& tokens, std::string_view salt = "") {
  int32_t node = PrefixCache::kRoot;
  for (size_t at = 0; at < tokens.size(); at += kBlockTokens) {
    std::vector<int32_t> block;
    EXPECT_TRUE(cache.take(1, block));
    node = cache.extend(node, salt, std::span(tokens).subspan(at, kBlockTokens), block[0]);
  }
  return node;
}

int matched(const PrefixCache& cache, std::initializer_list<int32_t> blocks, std::string_view salt = "") {
  return cache.match(salt, tokens_of(blocks), 100).blocks;
}

TEST(PrefixCache, FindsTheLongestKnownPrefix) {
  PrefixCache cache(8, false, 0);
  const int32_t node = put(cache, tokens_of({1, 2, 3}));

  EXPECT_EQ(matched(cache, {1, 2, 3, 4}), 3);
  EXPECT_EQ(matched(cache, {1, 2, 4}), 2);
  EXPECT_EQ(matched(cache, {2, 3}), 0);
  EXPECT_EQ(cache.match("", tokens_of({1, 2, 3}), 2).blocks, 2);
  EXPECT_EQ(cache.match("", tokens_of({1, 2, 3}), 100).node, node);
  std::vector<int32_t> path;
  cache.append_path(node, path);
  EXPECT_EQ(path.size(), 3u);
  EXPECT_EQ(path.back(), node);
}

TEST(PrefixCache, ComparesEveryTokenOfABlock) {
  PrefixCache cache(8, false, 0);
  std::vector<int32_t> tokens = tokens_of({1, 2});
  put(cache, tokens);
  tokens[127] = 9;

  EXPECT_EQ(cache.match("", tokens, 100).blocks, 1);
  EXPECT_EQ(cache.match("", std::span(tokens).first(127), 100).blocks, 1) << "half a block is none";
}

TEST(PrefixCache, SharesNothingBetweenSalts) {
  PrefixCache cache(8, false, 0);
  put(cache, tokens_of({1, 2}), "alice");
  const int32_t bob = put(cache, tokens_of({1}), "bob");

  EXPECT_EQ(matched(cache, {1, 2}, "alice"), 2);
  EXPECT_EQ(matched(cache, {1, 2}, "bob"), 1);
  EXPECT_EQ(matched(cache, {1, 2}), 0);
  EXPECT_EQ(cache.match("bob", tokens_of({1}), 100).node, bob);
}

TEST(PrefixCache, KeepsOneCopyOfEqualBlocks) {
  PrefixCache cache(4, false, 0);

  const int32_t first = put(cache, tokens_of({1, 2}));
  const int32_t second = put(cache, tokens_of({1, 2}));

  EXPECT_EQ(first, second);
  EXPECT_EQ(cache.available(), 2);
  cache.release(first);
  EXPECT_EQ(cache.available(), 2) << "the second still holds it";
  cache.release(second);
  EXPECT_EQ(cache.available(), 4);
  EXPECT_EQ(cache.cached(), 2);
}

TEST(PrefixCache, EvictsTheLeastRecentlyReleasedLeafFirst) {
  PrefixCache cache(5, false, 0);
  const int32_t a = put(cache, tokens_of({1, 2, 3})), b = put(cache, tokens_of({1, 4, 5}));
  cache.release(a);
  cache.release(b);
  std::vector<int32_t> taken;

  ASSERT_TRUE(cache.take(1, taken));
  EXPECT_EQ(matched(cache, {1, 2, 3}), 2);
  EXPECT_EQ(matched(cache, {1, 4, 5}), 3);
  ASSERT_TRUE(cache.take(2, taken));
  EXPECT_EQ(matched(cache, {1, 2, 3}), 1);
  EXPECT_EQ(matched(cache, {1, 4, 5}), 2);
  cache.hold(cache.match("", tokens_of({1, 4}), 100).node);
  EXPECT_FALSE(cache.take(1, taken)) << "all that is left is held";
  EXPECT_EQ(taken.size(), 3u);
  EXPECT_EQ(matched(cache, {1, 4, 5}), 2);
}

TEST(PrefixCache, TakesAllOrNothing) {
  PrefixCache cache(3, false, 0);
  const int32_t node = put(cache, tokens_of({1, 2}));
  std::vector<int32_t> taken;

  EXPECT_FALSE(cache.take(2, taken));
  cache.release(node);
  EXPECT_FALSE(cache.take(4, taken));
  EXPECT_EQ(matched(cache, {1, 2}), 2) << "a refused take evicts nothing";
  EXPECT_TRUE(cache.take(3, taken));
  EXPECT_EQ(matched(cache, {1, 2}), 0);
}

TEST(PrefixCache, FlushForgetsAllThatNobodyHolds) {
  PrefixCache cache(6, true, 2);
  const int32_t a = put(cache, tokens_of({1, 2})), b = put(cache, tokens_of({3, 4}));
  cache.attach_snapshot(a, cache.take_snapshot());
  cache.release(a);

  cache.flush();

  EXPECT_EQ(cache.available(), 4);
  EXPECT_EQ(cache.used_snapshots(), 0);
  cache.release(b);
  cache.flush();
  EXPECT_EQ(cache.available(), 6);
  EXPECT_EQ(cache.cached(), 0);
}

TEST(PrefixCache, RefusesAReleaseWithoutHold) {
  PrefixCache cache(2, false, 0);
  const int32_t node = put(cache, tokens_of({1}));
  cache.release(node);

  EXPECT_THROW(cache.release(node), Error);
}

TEST(PrefixCache, OfARecurrentModelMatchesOnlyWhereThereIsAState) {
  PrefixCache cache(8, true, 2);
  const int32_t node = put(cache, tokens_of({1, 2, 3}));
  EXPECT_EQ(matched(cache, {1, 2, 3}), 0);

  const int32_t snapshot = cache.take_snapshot();
  cache.attach_snapshot(node, snapshot);

  const PrefixCache::Match match = cache.match("", tokens_of({1, 2, 3, 4}), 100);
  EXPECT_EQ(match.blocks, 3);
  EXPECT_EQ(match.snapshot, snapshot);
  EXPECT_EQ(match.fork, 0);
}

TEST(PrefixCache, SaysWhereKnownPathsPartWithoutAState) {
  PrefixCache cache(8, true, 2);
  const int32_t node = put(cache, tokens_of({1, 2, 3}));
  cache.attach_snapshot(node, cache.take_snapshot());

  EXPECT_EQ(cache.match("", tokens_of({1, 2, 4}), 100).fork, 2);
  EXPECT_EQ(cache.match("", tokens_of({7, 2, 4}), 100).fork, 0);
  const int32_t longer = put(cache, tokens_of({1, 2, 3, 4}));
  EXPECT_EQ(cache.match("", tokens_of({1, 2, 3, 4, 5}), 100).fork, 0) << "nothing goes on from a leaf";
  EXPECT_NE(longer, node);
}

TEST(PrefixCache, GivesUpTheLeastRecentlyUsedSnapshot) {
  PrefixCache cache(8, true, 2);
  const int32_t a = put(cache, tokens_of({1})), b = put(cache, tokens_of({2}));
  cache.attach_snapshot(a, cache.take_snapshot());
  cache.attach_snapshot(b, cache.take_snapshot());
  cache.hold(a);

  cache.take_snapshot();

  EXPECT_EQ(matched(cache, {1}), 1);
  EXPECT_EQ(matched(cache, {2}), 0);
  cache.take_snapshot();
  EXPECT_EQ(cache.take_snapshot(), PrefixCache::kNone) << "both are being saved";
}

TEST(PrefixCache, KeepsOneSnapshotOfAPlace) {
  PrefixCache cache(8, true, 2);
  const int32_t node = put(cache, tokens_of({1}));
  const int32_t first = cache.take_snapshot(), second = cache.take_snapshot();

  cache.attach_snapshot(node, first);
  cache.attach_snapshot(node, second);

  EXPECT_EQ(cache.used_snapshots(), 1);
  EXPECT_EQ(cache.match("", tokens_of({1}), 1).snapshot, first);
}

TEST(PrefixCache, DropsASnapshotOnTheWayUnlessOthersStartThere) {
  PrefixCache cache(8, true, 4);
  const int32_t one = put(cache, tokens_of({1}));
  cache.attach_snapshot(one, cache.take_snapshot());
  const int32_t two = put(cache, tokens_of({1, 2}));
  EXPECT_EQ(matched(cache, {1}), 1);

  cache.drop_snapshot_before(two);
  EXPECT_EQ(matched(cache, {1}), 0);

  cache.attach_snapshot(one, cache.take_snapshot());
  put(cache, tokens_of({1, 3}));
  cache.drop_snapshot_before(two);
  EXPECT_EQ(matched(cache, {1}), 1);
}

// Random sequences over few tokens against a model that remembers every prefix it ever put.
TEST(PrefixCache, LosesNothingOnRandomTraces) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
    const int total = 8 + pick(30), snapshots = 1 + pick(6);
    PrefixCache cache(total, seed % 2 == 1, snapshots);
    std::vector<int32_t> held;
    std::map<int32_t, std::vector<int32_t>> content;  // of a block: the tokens that it was filled with
    for (int round = 0; round < 3000; ++round) {
      std::vector<int32_t> tokens;
      for (int i = 0, n = 1 + pick(6); i < n; ++i) tokens.insert(tokens.end(), kBlockTokens, pick(3));
      const PrefixCache::Match match = cache.match("", tokens, pick(7));
      cache.hold(match.node);
      std::vector<int32_t> blocks;
      cache.append_path(match.node, blocks);
      ASSERT_EQ(static_cast<int>(blocks.size()), match.blocks);
      for (size_t i = 0; i < blocks.size(); ++i)
        ASSERT_EQ(content.at(blocks[i]),
                  std::vector(tokens.begin(), tokens.begin() + static_cast<long>(i + 1) * kBlockTokens))
            << "a matched block holds something else";
      if (!cache.take(static_cast<int>(tokens.size()) / kBlockTokens - match.blocks, blocks)) {
        cache.release(match.node);
        ASSERT_FALSE(held.empty()) << "nothing is held and yet there is no room";
        const size_t which = static_cast<size_t>(pick(static_cast<int>(held.size())));
        cache.release(held[which]);
        held.erase(held.begin() + static_cast<long>(which));
        continue;
      }
      ASSERT_EQ(std::set(blocks.begin(), blocks.end()).size(), blocks.size());
      int32_t node = match.node;
      for (size_t i = static_cast<size_t>(match.blocks); i < blocks.size(); ++i) {
        content[blocks[i]].assign(tokens.begin(), tokens.begin() + static_cast<long>(i + 1) * kBlockTokens);
        node = cache.extend(node, "", std::span(tokens).subspan(i * kBlockTokens, kBlockTokens), blocks[i]);
        if (cache.recurrent() && pick(2)) {
          const int32_t snapshot = cache.take_snapshot();
          ASSERT_NE(snapshot, PrefixCache::kNone);
          cache.attach_snapshot(node, snapshot);
        }
      }
      held.push_back(node);
      ASSERT_LE(cache.used_snapshots(), snapshots);
    }
    for (const int32_t node : held) cache.release(node);
    EXPECT_EQ(cache.available(), total);
    cache.flush();
    EXPECT_EQ(cache.cached(), 0);
    EXPECT_EQ(cache.available(), total);
    EXPECT_EQ(cache.used_snapshots(), 0);
  }
}

}  // namespace
}  // namespace kt
