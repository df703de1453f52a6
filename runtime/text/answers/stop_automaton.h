#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// Texts and regular expressions that end an answer, as one automaton over bytes. A value: choices of a request copy it.
class StopAutomaton {
 public:
  // Taken literally. An empty text ends nothing.
  void add_text(std::string_view text);
  // A regular expression as in the field `regex` (docs/structured.md), found anywhere in the text, where `.` is any
  // character but a newline. Throws std::invalid_argument for one that is malformed, asks what an automaton cannot do
  // (anchors, word boundaries, looking ahead or behind, references), matches the empty text, or is larger than
  // kMaxEdges.
  void add_pattern(const std::string& pattern);

  // Edges of all patterns together. A byte of text costs at most a look at each.
  static constexpr size_t kMaxEdges = 16384;

 private:
  friend class StopWalk;
  struct Edge {
    uint8_t first, last;  // bytes
    uint32_t to;
  };
  struct State {
    std::vector<Edge> edges;
    std::optional<uint32_t> completes;  // what: an index into names_
  };

  std::vector<State> states_;
  std::vector<uint32_t> starts_;    // one for each text or pattern
  std::vector<std::string> names_;  // the texts and patterns themselves
  size_t pattern_edges_ = 0;
};

// Looks for the match that is complete first in a text that comes byte by byte, in time linear in the text: a set of
// states is advanced, as in Thompson, "Regular expression search algorithm", 1968, and each knows where its match
// began.
class StopWalk {
 public:
  struct Match {
    std::string what;  // the text or the pattern
    size_t length;     // bytes of the text, up to and with the latest
  };

  explicit StopWalk(StopAutomaton automaton);

  // The longest match that ends with this byte. Whatever matches later comes too late: push no more.
  std::optional<Match> push(char byte);
  // How many bytes at the end of the text may be the begin of a match.
  size_t open() const { return open_; }

 private:
  StopAutomaton automaton_;
  std::vector<uint32_t> live_, next_live_;      // states, each once
  std::vector<size_t> lengths_, next_lengths_;  // per state: bytes since the match began, the most; 0: not live
  size_t open_ = 0;
};

}  // namespace kt
