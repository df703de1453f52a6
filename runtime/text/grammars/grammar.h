#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/tokens/tokenizer.h"

namespace kt {

// Which answers are well-formed, over the tokens of one model. Immutable; any thread may use it.
class Grammar;

// The text that describes a grammar is at fault: what() says what is wrong with it, for its author.
struct GrammarError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Makes grammars from structural tags, xgrammar's JSON for compositions of JSON schemas, regular expressions, EBNF
// grammars, fixed and free text:
//   {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": {...}}}
// https://xgrammar.mlc.ai/docs/structural_tag/structural_tag.html
// Grammars speak of text: tokens that are special to the tokenizer never match, but for those named in `markup`.
// Any thread may call; the same text is compiled once as long as the cache holds it.
class GrammarCompiler {
 public:
  // eos: the tokens that end an answer, at least one; a grammar admits them where the text may end.
  // cache_bytes: of compiled grammars that are kept for later requests.
  // Takes half a second for 250,000 tokens.
  GrammarCompiler(const Tokenizer& tokenizer, const std::vector<int32_t>& eos,
                  const std::vector<std::string_view>& markup, size_t cache_bytes = size_t{256} << 20);
  ~GrammarCompiler();

  // What compile() would return without taking any time; null: it has to compile.
  std::shared_ptr<const Grammar> find(const std::string& structural_tag);

  // May take seconds, or minutes until it is stopped. Throws GrammarError, also when it is stopped.
  std::shared_ptr<const Grammar> compile(const std::string& structural_tag, std::stop_token stop = {});

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

// One answer on its way through a grammar. One thread at a time.
class GrammarWalk {
 public:
  explicit GrammarWalk(const std::shared_ptr<const Grammar>& grammar);
  ~GrammarWalk();
  GrammarWalk(GrammarWalk&&) noexcept;
  GrammarWalk& operator=(GrammarWalk&&) noexcept;

  // The tokens that may come next: bit id % 32 of word id / 32. None at all where the grammar has led to a dead end.
  // Valid until the next call.
  std::span<const uint32_t> allowed();

  // False, and nothing happens, when the token may not come next.
  bool accept(int32_t token);

  bool ended() const;  // the last token that was accepted ends answers

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kt
