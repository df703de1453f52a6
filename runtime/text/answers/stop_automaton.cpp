#include "runtime/text/answers/stop_automaton.h"

#include <fmt/format.h>
#include <fsm_builder.h>

#include <algorithm>
#include <stdexcept>
#include <unordered_set>
#include <utility>

#include "runtime/text/grammars/xgrammar_hooks.h"

namespace kt {
namespace {

xgrammar::FSMWithStartEnd parse(const std::string& pattern) {
  using xgrammar::RegexFSMBuilder;
  xgrammar::take_warning();
  auto automaton = RegexFSMBuilder::Build(xgrammar::RewriteRegexDots(pattern, /*dot_matches_newline=*/false));
  if (automaton.IsErr()) throw std::invalid_argument(std::move(automaton).UnwrapErr().what());
  // An anchor at an end is left out without a word, as if the whole text had to match: here none is at an end.
  auto matches_empty = RegexFSMBuilder::MatchesEmpty("()" + pattern.substr(pattern.starts_with("(?i)") ? 4 : 0) + "()");
  if (!xgrammar::take_warning().empty())  // of what it would leave out
    throw std::invalid_argument("anchors (^, $), looking ahead and unknown escapes cannot be part of it");
  if (std::move(matches_empty).UnwrapOr(true)) throw std::invalid_argument("it matches the empty text");
  return std::move(automaton).Unwrap();
}

}  // namespace

void StopAutomaton::add_text(std::string_view text) {
  if (text.empty()) return;
  starts_.push_back(static_cast<uint32_t>(states_.size()));
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    states_.push_back({{{byte, byte, static_cast<uint32_t>(states_.size() + 1)}}, std::nullopt});
  }
  states_.push_back({{}, static_cast<uint32_t>(names_.size())});
  names_.emplace_back(text);
}

void StopAutomaton::add_pattern(const std::string& pattern) {
  const xgrammar::FSMWithStartEnd automaton = parse(pattern);
  const auto first = static_cast<uint32_t>(states_.size());
  for (int32_t at = 0; at < automaton.NumStates(); ++at) {
    State& state = states_.emplace_back();
    std::unordered_set<int> same = {at};  // states that are reached without a byte
    automaton.GetFsm().GetEpsilonClosure(&same);
    for (const int from : same) {
      if (automaton.IsEndState(from)) state.completes = static_cast<uint32_t>(names_.size());
      for (const xgrammar::FSMEdge& edge : automaton.GetFsm().GetEdges(from)) {
        if (!edge.IsCharRange()) continue;
        if (++pattern_edges_ > kMaxEdges)
          throw std::invalid_argument(fmt::format("its automaton has more than {} edges", kMaxEdges));
        state.edges.push_back({static_cast<uint8_t>(edge.min), static_cast<uint8_t>(edge.max),
                               first + static_cast<uint32_t>(edge.target)});
      }
    }
  }
  starts_.push_back(first + static_cast<uint32_t>(automaton.GetStart()));
  names_.push_back(pattern);
}

StopWalk::StopWalk(StopAutomaton automaton)
    : automaton_(std::move(automaton)), lengths_(automaton_.states_.size()), next_lengths_(automaton_.states_.size()) {}

std::optional<StopWalk::Match> StopWalk::push(char byte) {
  const auto advance = [&](uint32_t from, size_t length) {
    for (const StopAutomaton::Edge& edge : automaton_.states_[from].edges) {
      if (static_cast<uint8_t>(byte) < edge.first || static_cast<uint8_t>(byte) > edge.last) continue;
      if (next_lengths_[edge.to] == 0) next_live_.push_back(edge.to);
      next_lengths_[edge.to] = std::max(next_lengths_[edge.to], length + 1);
    }
  };
  for (const uint32_t state : live_) advance(state, std::exchange(lengths_[state], 0));
  for (const uint32_t start : automaton_.starts_) advance(start, 0);
  live_.clear();
  live_.swap(next_live_);
  lengths_.swap(next_lengths_);

  open_ = 0;
  size_t longest = 0;
  uint32_t which = 0;
  for (const uint32_t state : live_) {
    open_ = std::max(open_, lengths_[state]);
    const std::optional<uint32_t> completes = automaton_.states_[state].completes;
    if (!completes || std::pair(lengths_[state], which) <= std::pair(longest, *completes)) continue;
    longest = lengths_[state];
    which = *completes;
  }
  if (longest == 0) return std::nullopt;
  return Match{automaton_.names_[which], longest};
}

}  // namespace kt
