// Answers that a grammar holds to a form.
#include <gtest/gtest.h>

#include "runtime/text/grammars/grammar.h"
#include "tests/engine/running.h"

namespace kt {
namespace {

using testing::ask;
using testing::bytes;
using testing::ByteTokenizer;
using testing::Client;
using testing::kEos;
using testing::letter_after;
using testing::Running;
using testing::says;

std::shared_ptr<const Grammar> regex(const std::string& pattern) {
  const std::string format = R"({"type": "regex", "pattern": ")" + pattern + R"("})";
  return GrammarCompiler(ByteTokenizer(), {kEos}, {})
      .compile(R"({"type": "structural_tag", "format": )" + format + "}");
}

GenerateRequest ask_for(const std::string& pattern, int max_new_tokens = 50) {
  GenerateRequest request = ask("?", max_new_tokens);
  request.grammar = regex(pattern);
  return request;
}

// The fake model's other logits are all the same: where its wish is not allowed, the lowest id is taken that is.
TEST(Constrained, ChoosesOnlyWhatTheGrammarAllows) {
  Running run(says(1, bytes("yap, maybe")));
  Client client;
  run.answer(ask_for("yes|no"), client);

  EXPECT_EQ(client.text(), "yes");
  EXPECT_EQ(client.finish().kind, Finish::Kind::stop);
  EXPECT_EQ(std::get<int32_t>(client.finish().matched), kEos);
}

TEST(Constrained, LeavesTheModelItsChoiceWithinTheGrammar) {
  Running run(says(1, bytes("c0")));
  Client client;
  run.answer(ask_for("[a-f][0-9]*"), client);

  EXPECT_EQ(client.text(), "c0");
}

TEST(Constrained, FollowsEachAnswerOnItsOwn) {
  Running run([](std::span<const int32_t> tokens) { return tokens.size() == 1 ? tokens[0] : 0; });
  const auto grammar = regex("ab|cd");
  std::vector<Client> clients(4);
  for (size_t i = 0; i < clients.size(); ++i) {
    GenerateRequest request = ask(i % 2 ? "a" : "c", 10);
    request.grammar = grammar;
    run.submit(std::move(request), clients[i]);
  }
  run.start();

  for (size_t i = 0; i < clients.size(); ++i) EXPECT_EQ(clients[i].await_end().text(), i % 2 ? "ab" : "cd");
}

// The pool holds too little for all: some are retracted, and their grammars go on where they were.
TEST(Constrained, GoesOnAfterARetraction) {
  EngineConfig config = Running::defaults();
  config.kv_blocks = 8;
  Running run(letter_after, config);
  const auto grammar = regex("([a-m][n-z]){70}");
  std::vector<Client> clients(5);
  for (size_t i = 0; i < clients.size(); ++i) {
    GenerateRequest request = ask(std::string(60, static_cast<char>('A' + i)), 150);
    request.grammar = grammar;
    run.submit(std::move(request), clients[i]);
  }
  run.start();

  for (Client& client : clients) {
    const std::string& text = client.await_end().text();
    ASSERT_EQ(text.size(), 140u);
    for (size_t i = 0; i < text.size(); ++i) EXPECT_EQ(text[i] >= 'n', i % 2 == 1) << i << " of " << text;
  }
  EXPECT_EQ(run.stop(), "");
  EXPECT_GT(run.engine().stats().retracted_total, 0u);
}

TEST(Constrained, EndsWithTheGrammarAlsoWhenEosIsToBeIgnored) {
  Running run(says(1, bytes("yesyesyes")));
  GenerateRequest request = ask_for("yes|no");
  request.sampling.ignore_eos = true;
  Client client;
  run.answer(std::move(request), client);

  EXPECT_EQ(client.text(), "yes");
  EXPECT_EQ(client.finish().kind, Finish::Kind::stop);
}

TEST(Constrained, MakesMinNewTokensOnlyWhereTheGrammarHasThem) {
  Running run(says(1, {}));
  GenerateRequest more = ask_for("a{0,9}");
  more.sampling.min_new_tokens = 4;
  GenerateRequest no_more = ask_for("a{0,2}");
  no_more.sampling.min_new_tokens = 4;
  Client longer, shorter;
  run.submit(std::move(more), longer);
  run.answer(std::move(no_more), shorter);

  EXPECT_EQ(longer.await_end().text(), "aaaa");
  EXPECT_EQ(shorter.text(), "aa");
  EXPECT_EQ(shorter.finish().kind, Finish::Kind::stop);
}

TEST(Constrained, IsCutByStopStringsAndLength) {
  Running run(says(1, {}));
  GenerateRequest stopped = ask_for("abcdef");
  stopped.sampling.stop = {"cd"};
  Client by_string, by_length;
  run.submit(std::move(stopped), by_string);
  run.answer(ask_for("abcdef", 3), by_length);

  EXPECT_EQ(by_string.await_end().text(), "ab");
  EXPECT_EQ(std::get<std::string>(by_string.finish().matched), "cd");
  EXPECT_EQ(by_length.text(), "abc");
  EXPECT_EQ(by_length.finish().kind, Finish::Kind::length);
}

TEST(Constrained, ReportsWhatTheModelThoughtWithoutTheGrammar) {
  Running run(says(1, bytes("maybe")));
  GenerateRequest request = ask_for("no");
  request.return_logprob = true;
  request.top_logprobs = 1;
  Client client;
  run.answer(std::move(request), client);

  EXPECT_EQ(client.tokens()[0].id, 'n');
  EXPECT_LT(client.tokens()[0].logprob, -9.0f);
  EXPECT_EQ(client.tokens()[0].top[0].first, 'm');
}

// As many steps as it takes alone: decode rows of constrained answers do not hold up those of others.
TEST(Constrained, CostsOtherAnswersNoSteps) {
  EngineConfig config = Running::defaults();
  config.max_running_requests = 192;
  config.kv_blocks = 400;
  Running run(letter_after, config);
  std::vector<Client> constrained(191);
  const auto grammar = regex("[a-z]{30}");
  for (Client& client : constrained) {
    GenerateRequest request = ask("?", 40);
    request.grammar = grammar;
    run.submit(std::move(request), client);
  }
  Client plain;
  run.answer(ask("?", 30), plain);

  EXPECT_EQ(plain.text(), testing::expected_text("?", 30));
  EXPECT_LE(run.model().steps, 32);
  for (Client& client : constrained) EXPECT_EQ(client.await_end().text().size(), 30u);
}

}  // namespace
}  // namespace kt
