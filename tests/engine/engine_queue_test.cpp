// Many requests at a time: the queue, aborts, deadlines, failures, load.
#include "runtime/engine/engine.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <thread>

#include "runtime/base/error.h"
#include "tests/engine/running.h"

namespace kt {
namespace {

using testing::ask;
using testing::Client;
using testing::expected_text;
using testing::letter_after;
using testing::rejection;
using testing::Running;

TEST(Engine, RejectsWhatCanNeverFit) {
  EngineConfig config = Running::defaults();
  config.kv_blocks = 2;
  Running run(letter_after, config);

  const Rejection too_long = rejection(run.engine(), ask(std::string(128, 'x'), 1));
  EXPECT_EQ(too_long.http_status, 400);
  EXPECT_EQ(too_long.message, "The input (128 tokens) is longer than the model's context length (128 tokens).");
  EXPECT_EQ(rejection(run.engine(), ask("", 1)).http_status, 400);
  GenerateRequest strange = ask("x", 1);
  strange.input_ids = {5, 264};
  EXPECT_EQ(rejection(run.engine(), strange).http_status, 400);
  strange.input_ids = {-1};
  EXPECT_EQ(rejection(run.engine(), strange).http_status, 400);
}

TEST(Engine, RejectsWhenTheQueueIsFullOrDraining) {
  EngineConfig config = Running::defaults();
  config.max_running_requests = 1;
  config.max_queued_requests = 1;
  Running run(letter_after, config);
  Client a, b;
  run.submit(ask("a", 2), a);
  run.submit(ask("b", 2), b);

  EXPECT_EQ(rejection(run.engine(), ask("c", 2)).http_status, 429);
  run.engine().drain();
  EXPECT_EQ(rejection(run.engine(), ask("c", 2)).http_status, 503);
  EXPECT_TRUE(run.engine().stats().draining);

  run.start();
  EXPECT_EQ(a.await_end().text(), expected_text("a", 2));
  EXPECT_EQ(b.await_end().text(), expected_text("b", 2));
}

TEST(Engine, TheLongestQueueTakesRequests) {
  EngineConfig config = Running::defaults();
  config.max_queued_requests = std::numeric_limits<int>::max();
  Running run(letter_after, config);
  Client client;
  run.submit(ask("a", 2), client);

  run.start();

  EXPECT_EQ(client.await_end().text(), expected_text("a", 2));
}

TEST(Engine, SaysWhyItTakesNoMoreRequests) {
  Running run;
  run.engine().drain("rank 2 (expert, host n2) was lost.");
  run.engine().drain();

  EXPECT_EQ(rejection(run.engine(), ask("c", 2)).message, "rank 2 (expert, host n2) was lost.");
}

TEST(Engine, FinishesOpenRequestsWhenStopped) {
  Running run;
  Client client;
  run.submit(ask("hello", 200), client);
  run.start();

  EXPECT_EQ(run.stop(), "");

  EXPECT_TRUE(client.ended());
  EXPECT_EQ(client.text(), expected_text("hello", 200));
  EXPECT_EQ(rejection(run.engine(), ask("late", 1)).http_status, 503);
}

TEST(Engine, AbortsWithinOneStep) {
  Running run;
  Client client;
  uint64_t id = 0;
  run.model().before_step = [&](const StepPlan& plan) {
    if (plan.step == 5) run.engine().abort(id);
  };
  id = run.submit(ask("hello", 500), client);
  run.start();

  client.await_end();

  EXPECT_EQ(client.finish().kind, Finish::Kind::abort);
  EXPECT_EQ(client.tokens().size(), 5u) << "the token of the step in which it was aborted is not emitted";
  EXPECT_EQ(run.stop(), "");
  EXPECT_EQ(run.engine().stats().kv_tokens_used, 0);
  EXPECT_EQ(run.engine().stats().aborted_total, 1u);
}

TEST(Engine, AbortsWhatStillWaits) {
  EngineConfig config = Running::defaults();
  config.max_running_requests = 1;
  Running run(letter_after, config);
  Client first, second;
  run.submit(ask("first", 50), first);
  const uint64_t id = run.submit(ask("second", 50), second);
  run.engine().abort(id);
  run.engine().abort(12345);
  run.start();

  EXPECT_EQ(second.await_end().finish().kind, Finish::Kind::abort);
  EXPECT_TRUE(second.tokens().empty());
  EXPECT_EQ(first.await_end().text(), expected_text("first", 50));
}

TEST(Engine, EndsOnlyTheRequestWhoseLogitsAreBroken) {
  Running run([](std::span<const int32_t> tokens) { return tokens[0] == '!' ? -1 : letter_after(tokens); });
  Client good, bad;
  run.submit(ask("good", 30), good);
  run.submit(ask("!bad", 30), bad);
  run.start();

  EXPECT_EQ(bad.await_end().finish().kind, Finish::Kind::error);
  EXPECT_EQ(good.await_end().text(), expected_text("good", 30));
}

TEST(Engine, TellsEveryClientWhenAStepFails) {
  Running run;
  Client running, waiting;
  run.model().before_step = [](const StepPlan& plan) {
    if (plan.step == 3) throw Error(kExitPeerLost, "rank 2 is gone");
  };
  run.submit(ask("hello", 100), running);
  run.submit(ask("hello", 100), waiting);
  run.start();

  for (Client* client : {&running, &waiting}) {
    EXPECT_EQ(client->await_end().finish().kind, Finish::Kind::error);
    EXPECT_EQ(client->finish().message, "rank 2 is gone");
  }
  EXPECT_EQ(run.stop(), "rank 2 is gone");
  EXPECT_EQ(rejection(run.engine(), ask("late", 1)).http_status, 503);
}

// 1000 tokens wanted of a pool of 512: some are retracted, and nobody's answer shows it.
TEST(Engine, AnswersTheSameWhenThePoolIsTooSmallForAll) {
  EngineConfig config = Running::defaults();
  config.kv_blocks = 8;
  Running run(letter_after, config);
  std::vector<Client> clients(5);
  for (size_t i = 0; i < clients.size(); ++i)
    run.submit(ask(std::string(60, static_cast<char>('A' + i)), 140), clients[i]);
  run.start();

  for (size_t i = 0; i < clients.size(); ++i) {
    EXPECT_EQ(clients[i].await_end().text(), expected_text(std::string(60, static_cast<char>('A' + i)), 140));
  }
  EXPECT_EQ(run.stop(), "");
  EXPECT_GT(run.engine().stats().retracted_total, 0u);
}

TEST(Engine, CountsInItsStats) {
  Running run;
  Client client;
  EXPECT_EQ(run.engine().stats().step_age_s, 0.0);
  run.submit(ask("hello", 10), client);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_GE(run.engine().stats().step_age_s, 0.02) << "work waits";
  EXPECT_EQ(run.engine().stats().waiting, 1);
  run.start();
  client.await_end();
  run.stop();

  const EngineStats stats = run.engine().stats();
  EXPECT_EQ(stats.requests_total, 1u);
  EXPECT_EQ(stats.prompt_tokens_total, 5u);
  EXPECT_EQ(stats.generation_tokens_total, 10u);
  EXPECT_EQ(stats.running + stats.waiting + stats.kv_tokens_used, 0);
  EXPECT_EQ(stats.kv_tokens_total, 64 * kBlockTokens);
  EXPECT_EQ(stats.step_age_s, 0.0);
  EXPECT_GT(stats.last_generation_throughput, 0.0);
}

TEST(Engine, TellsALongStepFromOneThatHangs) {
  Running run;
  Client client;
  std::atomic<bool> hold = true;
  run.model().before_step = [&](const StepPlan&) {
    while (hold) std::this_thread::yield();
  };
  run.submit(ask("hello", 1), client);
  run.start();
  const auto age = [&] {
    run.engine().stats();  // sees what has gone on by now
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    return run.engine().stats().step_age_s;
  };

  EXPECT_GE(age(), 0.03);
  ++run.model().laps;
  run.engine().stats();
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ++run.model().laps;
  EXPECT_EQ(run.engine().stats().step_age_s, 0.0) << "a step that goes on is young";
  EXPECT_GE(age(), 0.03);
  hold = false;
  client.await_end();
}

class EngineUnderLoad : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(OfBothKinds, EngineUnderLoad, ::testing::Bool());

TEST_P(EngineUnderLoad, ServesManyThreadsThatSubmitAndAbort) {
  EngineConfig config = Running::defaults();
  config.kv_blocks = 12;
  config.recurrent = GetParam();
  config.state_snapshots = 5;
  Running run(letter_after, config);
  run.start();
  std::atomic<int> answered = 0, aborted = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) {
        Client client;
        const std::string prompt = fmt::format("{:.<{}}{}/{}", "", i * 5, t, i);
        const uint64_t id = run.submit(ask(prompt, 50), client);
        if (i % 3 == 0) {
          client.await_tokens(static_cast<size_t>(i));
          run.engine().abort(id);
        }
        run.engine().stats();
        run.engine().flush_cache();
        client.await_end();
        if (client.finish().kind == Finish::Kind::abort) {
          ++aborted;
        } else {
          EXPECT_EQ(client.text(), expected_text(prompt, 50));
          ++answered;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(run.stop(), "");
  EXPECT_EQ(answered + aborted, 120);
  EXPECT_GE(answered, 78);
  EXPECT_EQ(run.engine().stats().kv_tokens_used, 0);
  EXPECT_EQ(run.engine().stats().requests_total, 120u);
}

TEST(Engine, HasClosedItsBooksWhenAnAnswerEnds) {
  Running run;
  bool flushed = false;
  EngineStats stats;
  std::promise<void> ended;
  run.engine().submit(ask("hello", 20), [&](const Emission& emission) {
    if (!emission.finish) return;
    flushed = run.engine().flush_cache();
    stats = run.engine().stats();
    ended.set_value();
  });
  run.start();
  ended.get_future().wait();

  EXPECT_TRUE(flushed);
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.kv_tokens_used, 0);
  EXPECT_EQ(stats.generation_tokens_total, 20u);
}

TEST(Engine, TellsHowLongARequestWaitedAndWhatStepsItTook) {
  EngineConfig config = Running::defaults();
  config.max_running_requests = 1;
  Running run(letter_after, config);
  run.model().before_step = [](const StepPlan&) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
  Client first, second;
  run.submit(ask("x", 20), first);
  run.submit(ask("y", 3), second);
  run.start();

  second.await_end();
  run.stop();

  EXPECT_LT(first.await_end().queue_s(), second.queue_s());
  EXPECT_GE(second.queue_s(), 0.04);  // the steps of the first
  const EngineStats stats = run.engine().stats();
  EXPECT_GT(stats.prefill_steps.sum(), 0.002);
  EXPECT_GT(stats.decode_steps.sum(), 0.04);
  EXPECT_EQ(stats.queried_tokens_total, 2u);
  EXPECT_EQ(stats.batch_tokens, 1);
}

TEST(Engine, EndsAtTheDeadlineWhetherItRunsOrWaits) {
  EngineConfig config = Running::defaults();
  config.max_running_requests = 1;
  Running run(letter_after, config);
  run.model().before_step = [](const StepPlan&) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
  Client runs, waits, patient;
  GenerateRequest request = ask("x", 900);
  request.deadline_s = 0.2;
  run.submit(request, runs);
  request.deadline_s = 0.05;
  run.submit(request, waits);
  run.submit(ask("y", 3), patient);
  run.start();

  for (Client* client : {&runs, &waits}) {
    EXPECT_EQ(client->await_end().finish().kind, Finish::Kind::timeout);
    EXPECT_EQ(client->finish().message, "The request's deadline has passed.");
  }
  EXPECT_FALSE(runs.tokens().empty());
  EXPECT_TRUE(waits.tokens().empty());
  EXPECT_EQ(patient.await_end().text(), expected_text("y", 3));
}

// What waits behind a long answer is not computed; the answer itself is, however long it takes.
TEST(Engine, EndsWhatNothingIsComputedOfAndNoLongAnswer) {
  EngineConfig config = Running::defaults();
  config.max_running_requests = 1;
  config.idle_timeout_s = 0.2;
  Running run(letter_after, config);
  run.model().before_step = [](const StepPlan&) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
  Client runs, waits;
  run.submit(ask("x", 400), runs);
  run.submit(ask("y", 3), waits);
  run.start();

  EXPECT_EQ(waits.await_end().finish().kind, Finish::Kind::timeout);
  EXPECT_TRUE(waits.finish().message.starts_with("Nothing of the request was computed for 0.2 s"))
      << waits.finish().message;
  EXPECT_EQ(runs.await_end().finish().kind, Finish::Kind::length);
  EXPECT_EQ(runs.tokens().size(), 400u);
}

// Prefill at 10 us a token beside a running answer: without bound a step takes 10 ms.
TEST(Engine, BoundsHowLongPrefillHoldsUpAnswers) {
  for (const bool mixed : {false, true}) {
    EngineConfig config = Running::defaults();
    config.context_length = 4000;
    config.chunked_prefill_size = 1024;
    config.enable_mixed_chunk = mixed;
    config.max_decode_stall_ms = 30;  // long beside what a busy machine adds to a sleep
    Running run(letter_after, config);
    std::vector<int> rows;  // of steps with prompt tokens, from when some are measured
    run.model().before_step = [&](const StepPlan& plan) {
      std::this_thread::sleep_for(std::chrono::microseconds(100 * plan.rows()));
      if (run.model().steps > 30 && plan.rows() > 1) rows.push_back(plan.rows());
    };
    Client answer, prompt;
    run.submit(ask("x", 300), answer);
    run.start();
    answer.await_tokens(40);
    run.submit(ask(std::string(3000, 'p'), 1), prompt);

    prompt.await_end();
    answer.await_end();
    EXPECT_EQ(run.stop(), "");
    ASSERT_FALSE(rows.empty());
    const auto half = rows.begin() + static_cast<std::ptrdiff_t>(rows.size() / 2);
    std::nth_element(rows.begin(), half, rows.end());
    EXPECT_GE(*half, kBlockTokens);
    EXPECT_LE(*half, 640 + 1);  // exact times would give 300, no bound 1024
  }
}

}  // namespace
}  // namespace kt
