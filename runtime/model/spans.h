#pragma once

#include <algorithm>
#include <atomic>
#include <span>
#include <vector>

#include "kernels/context.h"

namespace kt {

// Calls part(i, slot) for each i in [0, n); calls with the same slot < pool.size() follow one another, so a slot can
// have memory of its own.
template <class Part>
void run_slots(ThreadPool& pool, int64_t n, const Part& part) {
  std::atomic<int64_t> next{0};
  pool.run(std::min<int64_t>(n, pool.size()), [&](int64_t slot) {
    for (int64_t i = next++; i < n; i = next++) part(i, slot);
  });
}

// Some queries of one sequence, and the spans of kKvSpan keys that the last of them sees.
struct QueryRun {
  int queries = 0, spans = 0;
};
// Softmax states and values of the runs in work; kept between calls so that steps allocate nothing.
struct SpanRoom {
  std::vector<SoftmaxState> states;
  std::vector<float> values;
};

// The most bytes that a SpanRoom grows to, for sequences of up to `spans` spans.
inline size_t span_room_bytes(int threads, int64_t spans, int most, int n) {
  const int64_t parts = std::max<int64_t>(2 * threads, (2 * threads - 1) * spans);
  return static_cast<size_t>(parts * most) * (sizeof(SoftmaxState) + static_cast<size_t>(n) * sizeof(float));
}

// Attention of all runs (of at most `most` queries, values of n elements), span by span in ascending order:
//   attend(run, span, slot, states, values) computes one span's states [queries] and values (queries, n),
//   finish(run, states, values) gets them merged.
// Few runs of long sequences: threads share the spans of one run and the parts are merged afterwards. Many runs: each
// goes through its spans alone. The merging is the same, so the form does not show in the result.
template <class Attend, class Finish>
void attend_in_spans(const KernelContext& k, std::span<const QueryRun> runs, int most, int n, SpanRoom& room,
                     const Attend& attend, const Finish& finish) {
  std::vector<std::pair<int, int>> pieces;  // run, span
  for (size_t i = 0; i < runs.size(); ++i)
    for (int span = 0; span < runs[i].spans; ++span) pieces.push_back({static_cast<int>(i), span});
  const bool share = static_cast<int>(runs.size()) < 2 * k.pool.size() && pieces.size() > runs.size();
  const size_t parts = share ? pieces.size() : static_cast<size_t>(2 * k.pool.size());
  room.states.resize(std::max(room.states.size(), parts * most));
  room.values.resize(std::max(room.values.size(), parts * most * n));
  const auto states = [&](int64_t part) { return &room.states[static_cast<size_t>(part) * most]; };
  const auto values = [&](int64_t part) { return &room.values[static_cast<size_t>(part) * most * n]; };
  const auto merge = [&](int queries, int64_t to, int64_t from) {
    for (int q = 0; q < queries; ++q)
      k.ops.merge(states(to)[q], values(to) + static_cast<int64_t>(q) * n, states(from)[q],
                  values(from) + static_cast<int64_t>(q) * n, n);
  };

  if (share) {
    run_slots(k.pool, static_cast<int64_t>(pieces.size()),
              [&](int64_t i, int64_t slot) { attend(pieces[i].first, pieces[i].second, slot, states(i), values(i)); });
    std::vector<int64_t> first(runs.size(), 0);
    for (size_t i = 1; i < runs.size(); ++i) first[i] = first[i - 1] + runs[i - 1].spans;
    k.pool.run(static_cast<int64_t>(runs.size()), [&](int64_t i) {
      for (int span = 1; span < runs[i].spans; ++span) merge(runs[i].queries, first[i], first[i] + span);
      finish(static_cast<int>(i), states(first[i]), values(first[i]));
    });
    return;
  }
  run_slots(k.pool, static_cast<int64_t>(runs.size()), [&](int64_t i, int64_t slot) {
    const int run = static_cast<int>(i);
    attend(run, 0, slot, states(2 * slot), values(2 * slot));
    for (int span = 1; span < runs[i].spans; ++span) {
      attend(run, span, slot, states(2 * slot + 1), values(2 * slot + 1));
      merge(runs[i].queries, 2 * slot, 2 * slot + 1);
    }
    finish(run, states(2 * slot), values(2 * slot));
  });
}

}  // namespace kt
