#include "runtime/text/grammars/grammar.h"

#include <xgrammar/compiler.h>
#include <xgrammar/matcher.h>

#include <algorithm>
#include <list>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "runtime/text/grammars/xgrammar_hooks.h"

namespace {

// Of what this thread compiles: what the library said about it, and whether somebody still waits for it.
thread_local std::string warning;
thread_local std::stop_token stopping;

}  // namespace

namespace xgrammar {

// The library's messages: errors become exceptions whose text a client can read.
[[noreturn]] void LogFatalImpl(const std::string&, int, const std::string& message) { throw XGrammarError(message); }

// Called from a destructor: must not throw.
void LogMessageImpl(const std::string&, int, int, const std::string& message) { warning = message; }

std::string take_warning() { return std::exchange(warning, ""); }

void StopPoint() {
  if (stopping.stop_requested()) throw XGrammarError("compiling it was stopped");
}

}  // namespace xgrammar

namespace kt {
namespace {

std::vector<std::string> vocabulary_of(const Tokenizer& tokenizer, const std::vector<std::string_view>& markup) {
  std::vector<std::string> tokens;
  tokens.reserve(static_cast<size_t>(tokenizer.size()));
  for (int32_t id = 0; id < tokenizer.size(); ++id) {
    const std::string_view bytes = tokenizer.bytes(id);
    const bool text = !tokenizer.is_special(id) || std::find(markup.begin(), markup.end(), bytes) != markup.end();
    tokens.emplace_back(text ? bytes : std::string_view());  // xgrammar never matches tokens without bytes
  }
  return tokens;
}

}  // namespace

class Grammar {
 public:
  explicit Grammar(xgrammar::CompiledGrammar compiled) : compiled_(std::move(compiled)) {}
  const xgrammar::CompiledGrammar& compiled() const { return compiled_; }

 private:
  xgrammar::CompiledGrammar compiled_;
};

// Grammars by their text, the latest used first, as many as fit.
class GrammarCache {
 public:
  explicit GrammarCache(size_t max_bytes) : max_bytes_(max_bytes) {}

  std::shared_ptr<const Grammar> find(const std::string& text) {
    const std::lock_guard lock(mutex_);
    const auto found = by_text_.find(text);
    if (found == by_text_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->grammar;
  }

  void insert(const std::string& text, std::shared_ptr<const Grammar> grammar) {
    const size_t bytes = grammar->compiled().MemorySizeBytes() + 2 * text.size();
    const std::lock_guard lock(mutex_);
    if (bytes > max_bytes_ || by_text_.contains(text)) return;
    while (bytes_ + bytes > max_bytes_) drop_oldest();
    entries_.push_front({text, std::move(grammar), bytes});
    by_text_.emplace(text, entries_.begin());
    bytes_ += bytes;
  }

 private:
  struct Entry {
    std::string text;
    std::shared_ptr<const Grammar> grammar;
    size_t bytes;
  };

  void drop_oldest() {
    bytes_ -= entries_.back().bytes;
    by_text_.erase(entries_.back().text);
    entries_.pop_back();
  }

  const size_t max_bytes_;
  std::mutex mutex_;
  std::list<Entry> entries_;
  std::unordered_map<std::string, std::list<Entry>::iterator> by_text_;
  size_t bytes_ = 0;
};

struct GrammarCompiler::Library {
  xgrammar::GrammarCompiler compiler;
  GrammarCache cache;
};

GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer, const std::vector<int32_t>& eos,
                                 const std::vector<std::string_view>& markup, size_t cache_bytes) {
  const xgrammar::TokenizerInfo tokens(vocabulary_of(tokenizer, markup), xgrammar::VocabType::RAW, std::nullopt, eos);
  constexpr int kThreads = 1;  // the ranks' threads have the cores
  library_.reset(
      new Library{xgrammar::GrammarCompiler(tokens, kThreads, /*cache_enabled=*/false), GrammarCache(cache_bytes)});
}

GrammarCompiler::~GrammarCompiler() = default;

std::shared_ptr<const Grammar> GrammarCompiler::find(const std::string& structural_tag) {
  return library_->cache.find(structural_tag);
}

std::shared_ptr<const Grammar> GrammarCompiler::compile(const std::string& structural_tag, std::stop_token stop) {
  if (auto cached = find(structural_tag)) return cached;
  xgrammar::take_warning();
  stopping = std::move(stop);
  std::shared_ptr<const Grammar> grammar;
  try {
    grammar = std::make_shared<const Grammar>(library_->compiler.CompileStructuralTag(structural_tag));
  } catch (const std::exception& e) {
    throw GrammarError(e.what());
  }
  // Warnings are about what was left out of the grammar: answers would not be what was asked for.
  if (const std::string left_out = xgrammar::take_warning(); !left_out.empty()) throw GrammarError(left_out);
  GrammarWalk walk(grammar);
  const std::span<const uint32_t> first = walk.allowed();
  if (std::all_of(first.begin(), first.end(), [](uint32_t word) { return word == 0; }))
    throw GrammarError("no answer can match: the grammar never comes to an end");
  library_->cache.insert(structural_tag, grammar);
  return grammar;
}

struct GrammarWalk::State {
  explicit State(const xgrammar::CompiledGrammar& compiled)
      : matcher(compiled),
        words(static_cast<size_t>(xgrammar::GetBitmaskSize(compiled.GetTokenizerInfo().GetVocabSize()))) {}

  xgrammar::GrammarMatcher matcher;
  std::vector<uint32_t> words;
};

GrammarWalk::GrammarWalk(const std::shared_ptr<const Grammar>& grammar)
    : state_(std::make_unique<State>(grammar->compiled())) {}
GrammarWalk::~GrammarWalk() = default;
GrammarWalk::GrammarWalk(GrammarWalk&&) noexcept = default;
GrammarWalk& GrammarWalk::operator=(GrammarWalk&&) noexcept = default;

std::span<const uint32_t> GrammarWalk::allowed() {
  int64_t size = static_cast<int64_t>(state_->words.size());
  DLTensor words{.data = state_->words.data(),
                 .device = {kDLCPU, 0},
                 .ndim = 1,
                 .dtype = xgrammar::GetBitmaskDLType(),
                 .shape = &size,
                 .strides = nullptr,
                 .byte_offset = 0};
  state_->matcher.FillNextTokenBitmask(&words);
  return state_->words;
}

bool GrammarWalk::accept(int32_t token) { return state_->matcher.AcceptToken(token); }

bool GrammarWalk::ended() const { return state_->matcher.IsTerminated(); }

}  // namespace kt
