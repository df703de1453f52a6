#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>

#include "runtime/engine/engine.h"
#include "runtime/serve/service.h"
#include "runtime/text/grammars/grammar.h"

namespace kt {

inline constexpr int kFakeEos = 256;
inline constexpr int kFakeVocab = 260;

// One token per byte; 256 is "<eos>".
class FakeTokenizer : public Tokenizer {
 public:
  FakeTokenizer() {
    for (int i = 0; i < 256; ++i) bytes_[i] = static_cast<char>(i);
  }
  std::vector<int32_t> encode(std::string_view text, EncodeOptions = {}) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string_view bytes(int32_t id) const override {
    if (id == kFakeEos) return "<eos>";
    return id >= 0 && id < 256 ? std::string_view(&bytes_[id], 1) : std::string_view();
  }
  bool is_special(int32_t id) const override { return id == kFakeEos; }
  std::optional<int32_t> find(std::string_view content) const override {
    return content == "<eos>" ? std::optional<int32_t>(kFakeEos) : std::nullopt;
  }
  int32_t size() const override { return kFakeEos + 1; }

 private:
  char bytes_[256];
};

// "role:content;" for each message, tools in front, "assistant:" at the end. Refuses the word REFUSE.
class FakeTemplate : public ChatTemplate {
 public:
  std::string render(std::string_view messages, std::string_view tools, std::string_view kwargs) const override {
    std::string text(tools);
    for (const auto& message : nlohmann::ordered_json::parse(messages)) {
      const std::string content = message["content"].get<std::string>();
      if (content == "REFUSE") throw TemplateError("no such words");
      text += message["role"].get<std::string>() + ":" + content + ";";
      if (message.contains("tool_calls")) text += message["tool_calls"].dump();
    }
    last_kwargs_ = std::string(kwargs);
    return nlohmann::json::parse(kwargs)["add_generation_prompt"].get<bool>() ? text + "assistant:" : text;
  }
  inline static thread_local std::string last_kwargs_;
};

// The tokens that the engine makes of a prompt: the prompt again, or of a last user message "say:TEXT" the text.
inline std::vector<int32_t> fake_answer(const std::vector<int32_t>& prompt) {
  constexpr std::string_view kSay = "user:say:", kEnd = ";assistant:";
  const std::string text = decode(FakeTokenizer(), prompt, false);
  const size_t at = text.rfind(kSay);
  if (at == text.npos || !text.ends_with(kEnd)) return prompt;
  return {prompt.begin() + static_cast<ptrdiff_t>(at + kSay.size()),
          prompt.end() - static_cast<ptrdiff_t>(kEnd.size())};
}

inline std::shared_ptr<const Grammar> fake_grammar(const std::string& structural_tag, std::stop_token stop = {}) {
  static GrammarCompiler compiler(FakeTokenizer(), {kFakeEos}, {});
  return compiler.compile(structural_tag, std::move(stop));
}

// Answers token by token, one a step, then "<eos>"; leaves out tokens that a grammar does not allow. Logprobs are made
// of the position, exact in binary.
class FakeEngine : public Engine {
 public:
  struct Options {
    std::chrono::microseconds step{1000};
    std::chrono::milliseconds first_token{0};  // after its arrival, at the earliest
    int max_context = 512;
    int max_requests = 1000;   // more: 429
    bool hold = false;         // takes requests and says nothing
    size_t text_per_step = 0;  // > 0: emissions of so many bytes, without end
    double step_age_s = 0;
    std::vector<StepTotals> step_totals = {};
  };

  explicit FakeEngine(Options options) : options_(options), thread_([this](std::stop_token stop) { run(stop); }) {}
  FakeEngine() : FakeEngine(Options()) {}

  std::variant<uint64_t, Rejection> submit(GenerateRequest request, OnEmission on_emission) override {
    const std::lock_guard lock(mutex_);
    if (draining_) return Rejection{503, "draining"};
    if (static_cast<int>(running_.size()) >= options_.max_requests) return Rejection{429, "the request queue is full"};
    if (static_cast<int>(request.input_ids.size()) >= options_.max_context)
      return Rejection{400, "the input is longer than the model's context length"};
    seen_.push_back(request);
    std::vector<int32_t> answer = fake_answer(request.input_ids);
    std::optional<GrammarWalk> walk;
    if (request.grammar) walk.emplace(request.grammar);
    running_[++last_id_] = {.request = std::move(request),
                            .on_emission = std::move(on_emission),
                            .answer = std::move(answer),
                            .grammar = std::move(walk),
                            .text = {},
                            .arrival = Clock::now()};
    return last_id_;
  }
  void abort(uint64_t id) override {
    const std::lock_guard lock(mutex_);
    const auto it = running_.find(id);
    if (it == running_.end()) return;
    it->second.aborted = true;
    ++aborts;
  }
  EngineStats stats() const override {
    const std::lock_guard lock(mutex_);
    EngineStats stats;
    stats.running = static_cast<int>(running_.size());
    stats.max_context = options_.max_context;
    stats.kv_tokens_total = 1000;
    stats.kv_tokens_used = 250;
    stats.step_age_s = options_.step_age_s;
    stats.draining = draining_;
    stats.step_totals = options_.step_totals;
    return stats;
  }
  void drain(const std::string&) override {
    const std::lock_guard lock(mutex_);
    draining_ = true;
  }
  bool flush_cache() override {
    const std::lock_guard lock(mutex_);
    return running_.empty();
  }
  void run(std::stop_token stop) override {
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        if (stop.stop_requested()) {
          for (auto& [id, request] : running_) request.aborted = true;
        }
        for (auto it = running_.begin(); it != running_.end();)
          it = step(it->second) ? running_.erase(it) : std::next(it);
        if (stop.stop_requested() && running_.empty()) return;
      }
      std::this_thread::sleep_for(options_.step);
    }
  }
  // What the real program does before it stops the server.
  void finish() {
    thread_.request_stop();
    thread_.join();
  }
  std::vector<GenerateRequest> seen() const {
    const std::lock_guard lock(mutex_);
    return seen_;
  }

  std::atomic<int> aborts = 0;

 private:
  using Clock = std::chrono::steady_clock;
  struct Running {
    GenerateRequest request;
    OnEmission on_emission;
    std::vector<int32_t> answer;
    std::optional<GrammarWalk> grammar;
    size_t said = 0;  // of the answer
    int made = 0;
    int quarters = 0;  // of the prompt, told of
    bool aborted = false;
    Utf8Stream text;
    Clock::time_point arrival;
  };

  TokenLogprob logprob(int32_t id, int position, int top) const {
    TokenLogprob made{id, -0.125f * static_cast<float>(position + 1), {}};
    for (int i = 0; i < top; ++i) made.top.emplace_back((id + i) % 256, made.logprob - static_cast<float>(i));
    return made;
  }

  static int32_t next_token(Running& running) {
    while (running.said < running.answer.size()) {
      const int32_t id = running.answer[running.said++];
      if (!running.grammar || running.grammar->accept(id)) return id;
    }
    return kFakeEos;
  }

  // Reads a quarter of the prompt in each quarter of the time.
  void tell_quarters(Running& running) {
    const std::chrono::duration<double> elapsed = Clock::now() - running.arrival;
    const int quarter = static_cast<int>(4 * elapsed / options_.first_token);
    if (quarter < running.quarters) return;
    running.quarters = quarter + 1;
    const int prompt = static_cast<int>(running.request.input_ids.size());
    running.on_emission({.prompt_tokens = prompt,
                         .progress = PromptProgress{.read = prompt * quarter / 4, .seconds = elapsed.count()}});
  }

  bool step(Running& running) {
    const GenerateRequest& request = running.request;
    const int prompt_size = static_cast<int>(request.input_ids.size());
    Emission emission{.prompt_tokens = prompt_size};
    if (running.aborted) {
      emission.completion_tokens = running.made;
      emission.finish = Finish{Finish::Kind::abort, {}, "aborted"};
    } else if (request.deadline_s > 0 &&
               Clock::now() - running.arrival > std::chrono::duration<double>(request.deadline_s)) {
      emission.finish = Finish{Finish::Kind::timeout, {}, "too late"};
    } else if (options_.hold || Clock::now() - running.arrival < options_.first_token) {
      if (request.report_progress && options_.first_token.count() > 0) tell_quarters(running);
      return false;
    } else if (options_.text_per_step > 0) {
      emission.text.assign(options_.text_per_step, 'x');
      emission.tokens.push_back(logprob('x', running.made, 0));
      emission.completion_tokens = ++running.made;
    } else {
      if (running.made == 0 && request.logprob_start >= 0) {
        for (int i = request.logprob_start; i < prompt_size; ++i)
          emission.prompt.push_back(logprob(request.input_ids[static_cast<size_t>(i)], i, request.top_logprobs));
      }
      if (request.sampling.max_new_tokens == 0) {
        emission.finish = Finish{Finish::Kind::length, {}, ""};
        running.on_emission(std::move(emission));
        return true;
      }
      const int32_t id = next_token(running);
      const bool end = id == kFakeEos;
      emission.tokens.push_back(logprob(id, running.made, request.top_logprobs));
      if (!end) emission.text = running.text.push(tokenizer_.bytes(id));
      emission.completion_tokens = ++running.made;
      if (end) emission.finish = Finish{Finish::Kind::stop, kFakeEos, ""};
      if (end && running.grammar && !running.grammar->accept(kFakeEos))
        emission.finish = Finish{Finish::Kind::length, {}, ""};  // it wants more
      if (!end && running.made == request.sampling.max_new_tokens)
        emission.finish = Finish{Finish::Kind::length, {}, ""};
      if (emission.finish) emission.text += running.text.flush();
    }
    const bool last = emission.finish.has_value();
    running.on_emission(std::move(emission));
    return last;
  }

  const Options options_;
  FakeTokenizer tokenizer_;
  mutable std::mutex mutex_;
  std::map<uint64_t, Running> running_;
  std::vector<GenerateRequest> seen_;
  uint64_t last_id_ = 0;
  bool draining_ = false;
  std::jthread thread_;
};

inline ServedModel fake_model() {
  static const FakeTokenizer tokenizer;
  static const FakeTemplate chat_template;
  ServedModel model;
  model.name = "fake/model";
  model.model_path = model.tokenizer_path = "models/fake";
  model.architecture = "FakeForCausalLM";
  model.model_type = "fake";
  model.max_context = 512;
  model.vocab = kFakeVocab;
  model.eos = {kFakeEos};
  model.tokenizer = &tokenizer;
  model.compile_grammar = fake_grammar;
  model.chat_template = &chat_template;
  model.server_info_json = R"({"port": 30000})";
  return model;
}

}  // namespace kt
