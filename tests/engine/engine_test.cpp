// What becomes of one request: its answer, where it ends, what is refused.
#include "runtime/engine/engine.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cmath>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/text/answers/reasoning_parser.h"
#include "runtime/text/answers/stop_automaton.h"
#include "tests/engine/running.h"

namespace kt {
namespace {

using testing::ask;
using testing::bytes;
using testing::ByteTokenizer;
using testing::Client;
using testing::expected_text;
using testing::kEos;
using testing::letter_after;
using testing::PagedFakeModel;
using testing::Running;
using testing::says;

TEST(Engine, AnswersUntilTheLengthIsReached) {
  Running run;
  Client client;

  run.answer(ask("hello", 20), client);

  EXPECT_EQ(client.text(), expected_text("hello", 20));
  EXPECT_EQ(client.tokens().size(), 20u);
  EXPECT_EQ(client.prompt_tokens(), 5);
  EXPECT_EQ(client.finish().kind, Finish::Kind::length);
}

TEST(Engine, TellsTheRunnerWhenThereIsNothingToRunAndAnswersAfterwards) {
  Running run;
  Client client;
  run.start();

  for (int i = 0; i < 600 && run.model().idles == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  run.answer(ask("hello", 20), client);

  EXPECT_GT(run.model().idles, 0);
  EXPECT_EQ(client.text(), expected_text("hello", 20));
}

// A step that has written all it was to write, of which nothing may count.
TEST(Engine, StepsThatAreUndoneLeaveNoTrace) {
  for (const int snapshots : {-1, 0, 3, 64}) {
    for (const bool prefix_cache : {false, true}) {
      EngineConfig config = Running::defaults();
      config.recurrent = snapshots >= 0;
      config.state_snapshots = std::max(snapshots, 0);
      config.prefix_cache = prefix_cache;
      Running run(letter_after, config);
      run.model().after_step = [n = 0](const StepPlan&) mutable {
        if (++n % 7 == 2 || n % 7 == 3) throw StepUndone();
      };
      run.start();
      const std::vector<std::string> prompts = {"a", std::string(150, 'b'), std::string(151, 'b'),
                                                std::string(600, 'd')};
      std::array<Client, 4> clients;
      for (size_t i = 0; i < clients.size(); ++i) run.engine().submit(ask(prompts[i], 200), clients[i].receiver());
      for (size_t i = 0; i < clients.size(); ++i) {
        EXPECT_EQ(clients[i].await_end().text(), expected_text(prompts[i], 200)) << prompts[i];
        EXPECT_EQ(clients[i].tokens().size(), 200u);
      }
    }
  }
}

TEST(Engine, StopsAtEosWithoutItsText) {
  Running run(says(3, bytes("fine")));
  Client client;

  run.answer(ask("how", 20), client);

  EXPECT_EQ(client.text(), "fine");
  EXPECT_EQ(client.tokens().size(), 5u) << "EOS is counted";
  EXPECT_EQ(client.finish().kind, Finish::Kind::stop);
  EXPECT_EQ(std::get<int32_t>(client.finish().matched), kEos);
}

TEST(Engine, HasEndedByItselfWhenItsEndIsTheLastAllowedToken) {
  const auto end_of = [](int tokens, const std::string& stop) {
    Running run(says(3, bytes("fine")));
    Client client;
    GenerateRequest request = ask("how", tokens);
    if (!stop.empty()) request.sampling.stop = {stop};
    run.answer(std::move(request), client);
    EXPECT_EQ(client.tokens().size(), static_cast<size_t>(tokens));
    return std::pair(client.text(), client.finish());
  };

  const auto [all, eos] = end_of(5, "");
  EXPECT_EQ(all, "fine");
  EXPECT_EQ(eos.kind, Finish::Kind::stop);
  EXPECT_EQ(std::get<int32_t>(eos.matched), kEos);
  const auto [cut, stop] = end_of(3, "n");
  EXPECT_EQ(cut, "fi");
  EXPECT_EQ(stop.kind, Finish::Kind::stop);
  EXPECT_EQ(std::get<std::string>(stop.matched), "n");
  const auto [open, length] = end_of(3, "ne");
  EXPECT_EQ(open, "fin");
  EXPECT_EQ(length.kind, Finish::Kind::length);
}

TEST(Engine, StopsInTheAnswerButNotInTheReasoning) {
  Running run(says(3, bytes("a. b.</think>c. d")));
  Client client;
  GenerateRequest request = ask("how", 30);
  request.sampling.stop = {"."};
  request.sampling.reasoning =
      std::make_shared<const ReasoningParser>(ReasoningParser::Start::kOpen, std::vector<ToolFormat::Start>());

  run.answer(std::move(request), client);

  EXPECT_EQ(client.text(), "a. b.</think>c");
  EXPECT_EQ(std::get<std::string>(client.finish().matched), ".");
}

TEST(Engine, GoesOnPastEosWhenAsked) {
  Running run(says(3, {'a', kEos, 'b', 'c'}));
  Client client;
  GenerateRequest request = ask("how", 4);
  request.sampling.ignore_eos = true;
  request.sampling.stop_token_ids = {'b'};

  run.answer(std::move(request), client);

  EXPECT_EQ(client.text(), "abc");
  EXPECT_EQ(client.finish().kind, Finish::Kind::length);
}

TEST(Engine, StopsAtAStopTokenOfTheRequest) {
  for (const bool keep : {false, true}) {
    Running run(says(3, bytes("one.two")));
    Client client;
    GenerateRequest request = ask("how", 20);
    request.sampling.stop_token_ids = {'.'};
    request.sampling.no_stop_trim = keep;

    run.answer(std::move(request), client);

    EXPECT_EQ(client.text(), keep ? "one." : "one");
    EXPECT_EQ(std::get<int32_t>(client.finish().matched), '.');
  }
}

TEST(Engine, StopsWhereAPatternMatchesAndCutsIt) {
  Running run(says(3, bytes("one STOP two")));
  Client client;
  GenerateRequest request = ask("how", 20);
  StopAutomaton stops;
  stops.add_pattern(" [A-Z]{3}");
  request.sampling.stop_regex = std::make_shared<const StopAutomaton>(std::move(stops));

  run.answer(std::move(request), client);

  EXPECT_EQ(client.text(), "one");
  EXPECT_EQ(std::get<std::string>(client.finish().matched), " [A-Z]{3}");
}

TEST(Engine, StopsAtAStopStringAndCutsIt) {
  Running run(says(3, bytes("one STOP two")));
  Client client;
  GenerateRequest request = ask("how", 20);
  request.sampling.stop = {"STOP"};

  run.answer(std::move(request), client);

  EXPECT_EQ(client.text(), "one ");
  EXPECT_EQ(client.tokens().size(), 8u);
  EXPECT_EQ(std::get<std::string>(client.finish().matched), "STOP");
}

TEST(Engine, ShowsSpecialTokensOnlyWhenAsked) {
  for (const bool skip : {true, false}) {
    Running run(says(3, {'a', 257, 'b'}));
    Client client;
    GenerateRequest request = ask("how", 20);
    request.sampling.skip_special_tokens = skip;

    run.answer(std::move(request), client);

    EXPECT_EQ(client.text(), skip ? "ab" : "a<257>b");
  }
}

TEST(Engine, HoldsEosBackUntilMinNewTokens) {
  Running run(says(3, {}));
  Client client;
  GenerateRequest request = ask("how", 20);
  request.sampling.min_new_tokens = 3;

  run.answer(std::move(request), client);

  EXPECT_EQ(client.tokens().size(), 4u);
  EXPECT_EQ(client.finish().kind, Finish::Kind::stop);
}

TEST(Engine, EmitsWholeCharactersOnly) {
  Running run(says(3, bytes("\xe4\xbd\xa0\xe4")));
  Client client;

  run.answer(ask("how", 20), client);

  EXPECT_EQ(client.text(), "\u4f60\ufffd");
}

TEST(Engine, PrefillsLongPromptsInChunks) {
  Running run;
  Client client;
  const std::string prompt(900, 'x');

  run.answer(ask(prompt, 8), client);

  EXPECT_EQ(client.text(), expected_text(prompt, 8));
  EXPECT_EQ(run.model().steps, 4 + 7);
}

TEST(Engine, TellsBeforeEachStepHowMuchOfThePromptWasRead) {
  Running run;
  Client silent, first, second;
  GenerateRequest request = ask(std::string(900, 'x'), 8);
  run.answer(request, silent);
  request.report_progress = true;
  request.cache_salt = "another";

  run.answer(request, first);
  run.answer(request, second);

  EXPECT_TRUE(silent.progress().empty());
  std::vector<int> read;
  for (const PromptProgress& progress : first.progress()) read.push_back(progress.read);
  EXPECT_EQ(read, (std::vector<int>{0, 256, 512, 768}));
  EXPECT_EQ(first.progress().front().seconds, 0);
  EXPECT_GT(first.progress().back().seconds, 0);
  ASSERT_EQ(second.progress().size(), 1u) << "all but the end is in the cache";
  EXPECT_EQ(second.progress().front().read, second.cached_tokens());
  EXPECT_EQ(first.text(), silent.text());
}

TEST(Engine, GivesPromptLogprobsOnceWithTheFirstToken) {
  Running run;
  Client client;
  GenerateRequest request = ask(std::string(300, 'x'), 2);
  request.return_logprob = true;
  request.logprob_start = 10;
  request.top_logprobs = 3;

  run.answer(std::move(request), client);

  ASSERT_EQ(client.prompt().size(), 290u);
  EXPECT_EQ(client.prompt()[0].id, 'x');
  EXPECT_EQ(client.prompt()[0].top.size(), 3u);
  // One logit of 10 among zeros: log(e^10 / (e^10 + 263)).
  EXPECT_NEAR(client.tokens()[0].logprob, 10 - std::log(std::exp(10.0) + 263), 1e-5);
  EXPECT_EQ(client.tokens()[0].top[0].first, client.tokens()[0].id);
}

TEST(Engine, PrefillsOnlyWhenNoTokenIsWanted) {
  Running run;
  Client client;
  GenerateRequest request = ask("hello", 0);
  request.return_logprob = true;
  request.logprob_start = 0;

  run.answer(std::move(request), client);

  EXPECT_TRUE(client.tokens().empty());
  EXPECT_EQ(client.prompt().size(), 4u);
  EXPECT_EQ(client.finish().kind, Finish::Kind::length);
}

TEST(Engine, ClampsTheAnswerToTheContext) {
  EngineConfig config = Running::defaults();
  config.context_length = 100;
  Running run(letter_after, config);
  Client client;

  run.answer(ask(std::string(90, 'x'), -1), client);

  EXPECT_EQ(client.tokens().size(), 10u);
  EXPECT_EQ(client.finish().kind, Finish::Kind::length);
  EXPECT_EQ(run.engine().stats().max_context, 100);
}

TEST(Engine, SeededAnswersRepeatWhateverElseRuns) {
  const auto flat = [](std::span<const int32_t>) { return 5; };
  const auto seeded = [](uint64_t seed) {
    GenerateRequest request = ask("hello", 40);
    request.sampling.temperature = 50.0f;
    request.sampling.seed = seed;
    return request;
  };
  Client alone, beside, other, noise;
  Running run(flat);
  run.answer(seeded(1), alone);
  run.submit(ask("noise", 60), noise);
  run.submit(seeded(1), beside);
  run.submit(seeded(2), other);
  const auto ids = [](Client& client) {
    std::vector<int32_t> list;
    for (const TokenLogprob& t : client.await_end().tokens()) list.push_back(t.id);
    return list;
  };

  EXPECT_EQ(ids(beside), ids(alone));
  EXPECT_NE(ids(other), ids(alone));
}

TEST(Engine, MakesNoTokenWhereNoneIsWantedButSaysHowProbableThePromptIs) {
  Running run;
  Client client;
  GenerateRequest request = ask("abc", 0);
  request.return_logprob = true;
  request.logprob_start = 0;
  run.answer(request, client);

  EXPECT_EQ(client.finish().kind, Finish::Kind::length);
  EXPECT_TRUE(client.tokens().empty());
  EXPECT_EQ(client.prompt().size(), 2u);
}

TEST(Engine, RefusesNumbersThatCannotWorkTogether) {
  ByteTokenizer tokenizer;
  PagedFakeModel model(1, 260, letter_after);
  EXPECT_THROW(make_engine({.context_length = 0, .kv_blocks = 1}, model, tokenizer), Error);
  EXPECT_THROW(make_engine({.context_length = 100, .kv_blocks = 0}, model, tokenizer), Error);
  EXPECT_THROW(make_engine({.context_length = 100, .kv_blocks = 4, .chunked_prefill_size = 0}, model, tokenizer),
               Error);
  EXPECT_THROW(make_engine({.context_length = 100, .kv_blocks = 4, .max_running_requests = 0}, model, tokenizer),
               Error);
}

TEST(Engine, BoundsItsStepsByWhatTheRanksAreTold) {
  EXPECT_EQ(max_step_rows({.context_length = 5000, .kv_blocks = 100, .chunked_prefill_size = 512}), 512);
  EXPECT_EQ(max_step_rows({.context_length = 5000, .kv_blocks = 100, .chunked_prefill_size = -1}), 5000);
  EXPECT_EQ(max_step_rows(
                {.context_length = 5000, .kv_blocks = 100, .max_running_requests = 100, .chunked_prefill_size = 64}),
            164);
}

}  // namespace
}  // namespace kt
