#include "runtime/serve/http/grammar_desk.h"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "runtime/serve/http/http.h"
#include "runtime/text/grammars/grammar.h"
#include "tests/serve/client.h"
#include "tests/serve/fakes.h"

namespace kt {
namespace {

// Stands in the way until it is opened.
class Gate {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void await(int waiting) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(60), [&] { return waiting_ >= waiting; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int waiting_ = 0;
};

const std::string kYes = R"({"type": "structural_tag", "format": {"type": "const_string", "value": "yes"}})";

Job job_with(std::vector<GrammarOrder> orders, size_t requests) {
  Job job;
  job.requests.resize(requests);
  job.grammars = std::move(orders);
  return job;
}

// What the desk makes of the job, which it is given alone.
OrError<Job> prepared(const CompileGrammar& compile, Job job, double time_limit_s = 60) {
  boost::asio::io_context io;
  GrammarDesk desk(io, 1, time_limit_s);
  std::optional<OrError<Job>> outcome;
  desk.prepare(compile, {}, std::move(job), [&](OrError<Job> result) { outcome = std::move(result); });
  while (!outcome) io.run_one();
  desk.stop();
  desk.join();
  return std::move(*outcome);
}

TEST(GrammarDesk, GivesEveryRequestTheGrammarThatWasOrderedForIt) {
  const OrError<Job> outcome = prepared(fake_grammar, job_with({{kYes, "regex", 1, 2}}, 4));

  const auto& requests = std::get<Job>(outcome).requests;
  EXPECT_FALSE(requests[0].grammar);
  EXPECT_TRUE(requests[1].grammar);
  EXPECT_EQ(requests[1].grammar, requests[2].grammar);
  EXPECT_FALSE(requests[3].grammar);
}

TEST(GrammarDesk, NamesTheFieldWhoseGrammarIsWrong) {
  const auto refuse = [](const std::string&, std::stop_token) -> std::shared_ptr<const Grammar> {
    throw GrammarError("no such rule");
  };
  const OrError<Job> outcome = prepared(refuse, job_with({{kYes, "ebnf", 0, 1}}, 1));

  const ApiError& error = std::get<ApiError>(outcome);
  EXPECT_EQ(error.status, 400);
  EXPECT_EQ(error.param, "ebnf");
  EXPECT_EQ(error.message, "ebnf: no such rule");
}

TEST(GrammarDesk, RefusesWhatTakesTooLongAndAsksTheNextToComeBack) {
  Gate gate;
  const CompileGrammar compile = [&](const std::string& tag, std::stop_token) {
    gate.pass();
    return fake_grammar(tag);
  };
  boost::asio::io_context io;
  GrammarDesk desk(io, 1, 0.05);
  std::vector<ApiError> errors;
  const auto keep = [&](OrError<Job> result) { errors.push_back(std::get<ApiError>(std::move(result))); };
  desk.prepare(compile, {}, job_with({{kYes, "regex", 0, 1}}, 1), keep);
  gate.await(1);
  desk.prepare(compile, {}, job_with({{kYes, "ebnf", 0, 1}}, 1), keep);
  while (errors.size() < 2) io.run_one();

  EXPECT_EQ(errors[0].status, 400);
  EXPECT_EQ(errors[0].code, "grammar_too_complex");
  EXPECT_EQ(errors[1].status, 503);
  gate.open();
  desk.stop();
  desk.join();
  io.run();
  EXPECT_EQ(errors.size(), 2u);
}

TEST(GrammarDesk, AnswersThoseWhoWaitWhenItStops) {
  Gate gate;
  const CompileGrammar compile = [&](const std::string& tag, std::stop_token) {
    gate.pass();
    return fake_grammar(tag);
  };
  boost::asio::io_context io;
  GrammarDesk desk(io, 1, 60);
  int refused = 0;
  for (int i = 0; i < 3; ++i)
    desk.prepare(compile, {}, job_with({{kYes, "regex", 0, 1}}, 1),
                 [&](OrError<Job> result) { refused += std::get<ApiError>(result).status == 503; });
  gate.await(1);
  desk.stop();
  EXPECT_EQ(refused, 3);
  gate.open();
  desk.join();
  io.run();
}

TEST(GrammarDesk, WhatIsKnownAlreadyWaitsForNoCompiling) {
  Gate gate;
  const CompileGrammar compile = [&](const std::string& tag, std::stop_token) {
    gate.pass();
    return fake_grammar(tag);
  };
  const std::shared_ptr<const Grammar> known = fake_grammar(kYes);
  const FindGrammar find = [&](const std::string& tag) { return tag == kYes ? known : nullptr; };
  boost::asio::io_context io;
  GrammarDesk desk(io, 1, 60);
  bool slow_is_done = false;
  std::shared_ptr<const Grammar> given;
  desk.prepare(compile, find, job_with({{kYes, "regex", 0, 1}, {"another", "ebnf", 1, 1}}, 2),
               [&](OrError<Job>) { slow_is_done = true; });
  gate.await(1);
  desk.prepare(compile, find, job_with({{kYes, "regex", 0, 1}}, 1),
               [&](OrError<Job> result) { given = std::get<Job>(result).requests[0].grammar; });

  EXPECT_EQ(given, known);
  EXPECT_FALSE(slow_is_done);
  gate.open();
  desk.stop();
  desk.join();
  io.run();
}

TEST(GrammarDesk, StopsCompilingWhatNobodyWaitsFor) {
  const CompileGrammar compile = [&](const std::string& tag, std::stop_token stop) {
    while (!stop.stop_requested()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return fake_grammar(tag);
  };
  boost::asio::io_context io;
  GrammarDesk desk(io, 1, 0.05);
  int refused = 0;
  for (int i = 0; i < 2; ++i)
    desk.prepare(compile, {}, job_with({{kYes, "regex", 0, 1}}, 1),
                 [&](OrError<Job> result) { refused += std::holds_alternative<ApiError>(result); });
  while (refused < 2) io.run_one();
  desk.join();  // ends although stop() was not called
}

std::string chat_with(const std::string& members) {
  return post("/v1/chat/completions",
              R"({"messages": [{"role": "user", "content": "say:I say yes, no."}])" + members + "}");
}

class GrammarServer : public testing::Test {
 protected:
  GrammarServer() : server_({.port = 0}) {}
  ~GrammarServer() override {
    gate_.open();
    engine_.finish();
    server_.stop();
  }
  void serve(CompileGrammar compile) {
    ServedModel model = fake_model();
    model.compile_grammar = std::move(compile);
    server_.serve(engine_, std::move(model));
  }
  std::string ask(const std::string& request) {
    Client client(server_.port());
    client.send(request);
    return client.read_response();
  }

  Gate gate_;
  HttpServer server_;
  FakeEngine engine_;
};

TEST_F(GrammarServer, HoldsAnswersToTheFormOfEachRequest) {
  serve(fake_grammar);
  EXPECT_NE(ask(chat_with(R"(, "regex": "yes|maybe")")).find(R"("content":"yes")"), std::string::npos);
  EXPECT_NE(ask(chat_with(R"(, "ebnf": "root ::= \"no\"")")).find(R"("content":"no")"), std::string::npos);
  EXPECT_NE(ask(chat_with("")).find("I say yes, no."), std::string::npos);
}

TEST_F(GrammarServer, SaysWhatIsWrongWithAForm) {
  serve(fake_grammar);
  const std::string response =
      ask(chat_with(R"(, "stream": true, "json_schema": {"type": "integer", "minimum": 2, "maximum": 1})"));
  EXPECT_EQ(status_of(response), 400);
  EXPECT_NE(response.find(R"("param":"json_schema")"), std::string::npos) << response;
  const std::string anthropic =
      ask(post("/v1/messages", R"({"max_tokens": 9, "messages": [{"role": "user", "content": "x"}],
      "output_format": {"type": "json_schema", "schema": {"type": "what"}}})"));
  EXPECT_EQ(status_of(anthropic), 400);
  EXPECT_NE(anthropic.find(R"("type":"invalid_request_error")"), std::string::npos) << anthropic;
}

// 200 forms, none of which compiles before all plain requests are answered.
TEST_F(GrammarServer, AnswersPlainRequestsWhileGrammarsAreCompiled) {
  serve([this](const std::string& tag, std::stop_token) {
    gate_.pass();
    return fake_grammar(tag);
  });
  std::vector<Client> constrained;
  for (int i = 0; i < 200; ++i) {
    constrained.emplace_back(server_.port());
    constrained.back().send(chat_with(R"(, "regex": "yes|n{)" + std::to_string(i + 1) + "}\""));
  }
  gate_.await(1);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(status_of(ask(chat_with(""))), 200);
  EXPECT_EQ(engine_.seen().size(), 20u);

  gate_.open();
  for (Client& client : constrained) EXPECT_NE(client.read_response(60).find(R"("content":"yes")"), std::string::npos);
  EXPECT_EQ(engine_.seen().size(), 220u);
}

}  // namespace
}  // namespace kt
