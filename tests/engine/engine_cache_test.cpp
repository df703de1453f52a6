// Answers from the prefix cache.
#include "runtime/engine/engine.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/engine/running.h"

namespace kt {
namespace {

using testing::ask;
using testing::Client;
using testing::expected_text;
using testing::letter_after;
using testing::Running;

EngineConfig recurrent(EngineConfig config) {
  config.recurrent = true;
  config.state_snapshots = 8;
  return config;
}

TEST(Engine, AnswersTheSameFromTheCacheAndSaysHowMuch) {
  for (const EngineConfig& config : {Running::defaults(), recurrent(Running::defaults())}) {
    Running run(letter_after, config);
    const std::string prompt(200, 'p');
    for (const int cached : {0, 192, 192}) {
      Client client;
      run.answer(ask(prompt, 40), client);
      EXPECT_EQ(client.text(), expected_text(prompt, 40));
      EXPECT_EQ(client.cached_tokens(), cached);
    }
    Client next_turn;
    const std::string talk = fmt::format("{}{}{:q<50}", prompt, expected_text(prompt, 40), "");
    run.answer(ask(talk, 40), next_turn);
    EXPECT_EQ(next_turn.text(), expected_text(talk, 40));
    EXPECT_EQ(next_turn.cached_tokens(), 192);
    run.stop();

    const EngineStats stats = run.engine().stats();
    EXPECT_EQ(stats.cached_tokens_total, 3u * 192);
    EXPECT_EQ(stats.kv_tokens_used, 0);
    EXPECT_EQ(stats.kv_tokens_cached, 5 * kBlockTokens);
  }
}

TEST(Engine, UsesNoCacheWhenToldNotTo) {
  EngineConfig config = Running::defaults();
  config.prefix_cache = false;
  Running run(letter_after, config);
  for (int i = 0; i < 2; ++i) {
    Client client;
    run.answer(ask(std::string(200, 'p'), 5), client);
    EXPECT_EQ(client.cached_tokens(), 0);
  }
  run.stop();

  EXPECT_EQ(run.engine().stats().kv_tokens_cached, 0);
}

TEST(Engine, PartsTheCacheBySalt) {
  Running run;
  for (const auto& [salt, cached] : {std::pair(std::string("a"), 0), {"b", 0}, {"a", 192}}) {
    GenerateRequest request = ask(std::string(200, 'p'), 5);
    request.cache_salt = salt;
    Client client;
    run.answer(std::move(request), client);
    EXPECT_EQ(client.cached_tokens(), cached);
  }
}

TEST(Engine, GivesPromptLogprobsOfCachedPrompts) {
  Running run;
  Client first, second;
  GenerateRequest request = ask(std::string(200, 'p'), 5);
  request.return_logprob = true;
  request.logprob_start = 0;
  run.answer(request, first);
  run.answer(request, second);

  EXPECT_EQ(second.prompt().size(), 199u);
  EXPECT_EQ(second.cached_tokens(), 0);
}

TEST(Engine, ForgetsTheCacheOnlyWhenIdle) {
  Running run;
  Client first, second, third;
  run.submit(ask(std::string(200, 'p'), 5), first);
  EXPECT_FALSE(run.engine().flush_cache());
  run.start();
  first.await_end();
  EXPECT_TRUE(run.engine().flush_cache());

  run.answer(ask(std::string(200, 'p'), 5), second);
  run.answer(ask(std::string(200, 'p'), 5), third);

  EXPECT_EQ(second.cached_tokens(), 0);
  EXPECT_EQ(third.cached_tokens(), 192);
}

}  // namespace
}  // namespace kt
