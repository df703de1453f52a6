#pragma once

#include <algorithm>
#include <atomic>
#include <span>

#include "kernels/context.h"
#include "kernels/mat.h"

namespace kt {

// Calls part(i, slot) for each i in [0, n); calls with the same slot < pool.size() follow one another, so a slot can
// have memory of its own.
template <class Part>
void run_slots(ThreadPool& pool, int64_t n, const Part& part) {
  std::atomic<int64_t> next{0};
  pool.run(std::min<int64_t>(n, pool.size()), [&](int64_t slot) {
    for (int64_t i = next++; i < n; i = next++) {
      pool.beat();
      part(i, slot);
    }
  });
}

// Some queries of one sequence, and the spans of kKvSpan keys that the last of them sees.
struct QueryRun {
  int queries = 0, spans = 0;
  int64_t first_span = 0;  // among those of all runs
};

// Softmax states and values of so many runs, or of one span of theirs, at a time.
struct SpanRoom {
  static constexpr int kWaveParts = 8;  // for each thread: spans that are in work before they are merged
  SoftmaxState* states = nullptr;
  float* values = nullptr;
};
inline SpanRoom lay_out_spans(Layout& layout, int threads, int most, int n) {
  const int64_t parts = static_cast<int64_t>(2 + SpanRoom::kWaveParts) * threads;
  return {layout.array<SoftmaxState>(parts * most), layout.array<float>(parts * most * n)};
}

// Attention of all runs (QueryRuns of at most `most` queries, values of n elements), span by span in ascending order:
//   attend(run, span, slot, states, values) computes one span's states [queries] and values (queries, n),
//   finish(run, states, values) gets them merged.
// Few runs of long sequences: threads share the spans of all runs, as many at a time as there is room for, and merge
// them run by run. Many runs: each goes through its spans alone. The merging is the same, so the form does not show.
template <class Run, class Attend, class Finish>
void attend_in_spans(const KernelContext& k, std::span<Run> runs, int most, int n, const SpanRoom& room,
                     const Attend& attend, const Finish& finish) {
  const int64_t threads = k.pool.size(), count = static_cast<int64_t>(runs.size());
  const auto states = [&](int64_t part) { return room.states + part * most; };
  const auto values = [&](int64_t part) { return room.values + part * most * n; };
  const auto merge = [&](int queries, int64_t to, int64_t from) {
    for (int q = 0; q < queries; ++q)
      k.ops.merge(states(to)[q], values(to) + static_cast<int64_t>(q) * n, states(from)[q],
                  values(from) + static_cast<int64_t>(q) * n, n);
  };
  int64_t spans = 0;
  for (Run& run : runs) run.first_span = spans, spans += run.spans;

  if (count >= 2 * threads || spans == count) {
    run_slots(k.pool, count, [&](int64_t i, int64_t slot) {
      const Run& run = runs[i];
      attend(run, 0, slot, states(2 * slot), values(2 * slot));
      for (int span = 1; span < run.spans; ++span) {
        attend(run, span, slot, states(2 * slot + 1), values(2 * slot + 1));
        merge(run.queries, 2 * slot, 2 * slot + 1);
      }
      finish(run, states(2 * slot), values(2 * slot));
    });
    return;
  }
  // Parts: the runs', of what is merged so far, then those of a wave of spans.
  const int64_t waves = ceil_div(spans, SpanRoom::kWaveParts * threads), wave = ceil_div(spans, waves);
  for (int64_t begin = 0; begin < spans; begin += wave) {
    const int64_t end = std::min(spans, begin + wave);
    const auto part_of = [&](int64_t i, int64_t span) { return span ? count + runs[i].first_span + span - begin : i; };
    run_slots(k.pool, end - begin, [&](int64_t piece, int64_t slot) {
      int64_t i = 0;
      while (i + 1 < count && runs[i + 1].first_span <= begin + piece) ++i;
      const int64_t span = begin + piece - runs[i].first_span, part = part_of(i, span);
      attend(runs[i], static_cast<int>(span), slot, states(part), values(part));
    });
    k.pool.run(count, [&](int64_t i) {
      const Run& run = runs[i];
      const int64_t from = std::max<int64_t>(0, begin - run.first_span),
                    to = std::min<int64_t>(run.spans, end - run.first_span);
      for (int64_t span = std::max<int64_t>(from, 1); span < to; ++span) merge(run.queries, i, part_of(i, span));
      if (from < to && to == run.spans) finish(run, states(i), values(i));
    });
  }
}

}  // namespace kt
