#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "runtime/engine/engine.h"
#include "tests/engine/fakes.h"

namespace kt::testing {

inline constexpr int32_t kEos = 256;

// All that became of one request, gathered on the engine's thread and awaited on the test's.
class Client {
 public:
  OnEmission receiver() {
    return [this](Emission e) {
      const std::lock_guard lock(mutex_);
      EXPECT_FALSE(finish_) << "an emission after the last";
      text_ += e.text;
      for (TokenLogprob& t : e.tokens) tokens_.push_back(std::move(t));
      for (TokenLogprob& t : e.prompt) prompt_.push_back(std::move(t));
      EXPECT_EQ(e.completion_tokens, static_cast<int>(tokens_.size()));
      prompt_tokens_ = e.prompt_tokens;
      cached_tokens_ = e.cached_tokens;
      queue_s_ = e.queue_s;
      if (e.progress) progress_.push_back(*e.progress);
      finish_ = std::move(e.finish);
      changed_.notify_all();
    };
  }

  const Client& await_end() {
    std::unique_lock lock(mutex_);
    const bool ended = changed_.wait_for(lock, std::chrono::seconds(60), [&] { return finish_.has_value(); });
    EXPECT_TRUE(ended) << "no last emission";
    if (!ended) finish_ = Finish{};
    return *this;
  }
  void await_tokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(60), [&] { return tokens_.size() >= count; });
  }

  // After await_end.
  const std::string& text() const { return text_; }
  const std::vector<TokenLogprob>& tokens() const { return tokens_; }
  const std::vector<TokenLogprob>& prompt() const { return prompt_; }
  int prompt_tokens() const { return prompt_tokens_; }
  int cached_tokens() const { return cached_tokens_; }
  double queue_s() const { return queue_s_; }
  const std::vector<PromptProgress>& progress() const { return progress_; }
  const Finish& finish() const { return *finish_; }
  bool ended() {
    const std::lock_guard lock(mutex_);
    return finish_.has_value();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  std::vector<TokenLogprob> tokens_, prompt_;
  int prompt_tokens_ = 0, cached_tokens_ = 0;
  double queue_s_ = 0;
  std::vector<PromptProgress> progress_;
  std::optional<Finish> finish_;
};

// What the fake model answers, without engine.
inline std::string expected_text(std::string_view prompt, int tokens) {
  std::vector<int32_t> all;
  for (const char c : prompt) all.push_back(static_cast<unsigned char>(c));
  std::string text;
  for (int i = 0; i < tokens; ++i) {
    all.push_back(letter_after(all));
    text += static_cast<char>(all.back());
  }
  return text;
}

inline GenerateRequest ask(std::string_view prompt, int max_new_tokens) {
  GenerateRequest request;
  for (const char c : prompt) request.input_ids.push_back(static_cast<unsigned char>(c));
  request.sampling.temperature = 0.0f;
  request.sampling.max_new_tokens = max_new_tokens;
  return request;
}

// An engine over the fake model, running on a thread of its own until the test ends.
class Running {
 public:
  explicit Running(PagedFakeModel::Next next = letter_after, EngineConfig config = defaults())
      : model_(config.kv_blocks, ByteTokenizer::kSize + 4, std::move(next),
               config.recurrent ? config.state_snapshots : -1),
        engine_(make_engine(config, model_, tokenizer_)) {}
  ~Running() { stop(); }

  static EngineConfig defaults() {
    return {.context_length = 1000,
            .kv_blocks = 64,
            .max_running_requests = 8,
            .max_queued_requests = 1024,
            .chunked_prefill_size = 256,
            .enable_mixed_chunk = true,
            .eos = {kEos}};
  }

  PagedFakeModel& model() { return model_; }
  Engine& engine() { return *engine_; }

  void start() {
    thread_ = std::jthread([this](std::stop_token stop) {
      try {
        engine_->run(stop);
      } catch (const std::exception& error) {
        failure_ = error.what();
      }
    });
  }
  // Returns what run() threw.
  std::string stop() {
    if (thread_.joinable()) {
      thread_.request_stop();
      thread_.join();
    }
    return failure_;
  }
  uint64_t submit(GenerateRequest request, Client& client) {
    const auto result = engine_->submit(std::move(request), client.receiver());
    EXPECT_TRUE(std::holds_alternative<uint64_t>(result)) << std::get<Rejection>(result).message;
    return std::get<uint64_t>(result);
  }
  // Starts the engine if need be and waits for the answer.
  void answer(GenerateRequest request, Client& client) {
    submit(std::move(request), client);
    if (!thread_.joinable()) start();
    client.await_end();
  }

 private:
  ByteTokenizer tokenizer_;
  PagedFakeModel model_;
  std::unique_ptr<Engine> engine_;
  std::string failure_;
  std::jthread thread_;
};

// A model that says the given tokens after a prompt of that length, then EOS.
inline PagedFakeModel::Next says(size_t prompt, std::vector<int32_t> script) {
  return [=](std::span<const int32_t> tokens) {
    const size_t made = tokens.size() - std::min(tokens.size(), prompt);
    return made < script.size() ? script[made] : kEos;
  };
}

inline std::vector<int32_t> bytes(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

inline Rejection rejection(Engine& engine, GenerateRequest request) {
  const auto result =
      engine.submit(std::move(request), [](const Emission&) { ADD_FAILURE() << "emission of a rejected request"; });
  return std::holds_alternative<Rejection>(result) ? std::get<Rejection>(result) : Rejection{0, "accepted"};
}

}  // namespace kt::testing
