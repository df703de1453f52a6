#pragma once

// What the files of latent attention share: one layer's work on a block of rows, in the order of its functions.

#include <algorithm>
#include <cstdint>

#include "runtime/model/mla.h"
#include "runtime/model/trunk.h"

namespace kt {

inline constexpr float kLatentEps = 1e-6f;  // of the latents' norms, in the releases' code whatever rms_norm_eps says
inline constexpr int kRunQueries = 128;     // at most, of one sequence
inline constexpr int kAbsorbRows = 64;      // of one head per task

// A thread's own memory.
struct MlaSlot {
  bf16* packed;   // cached rows of one span as a matrix
  float* scores;  // of a run and a span; or rows of one head; or of index heads and a page
  bf16* weights;  // softmax of the scores; or rows of one head
};
MlaSlot slot_of(const Trunk& t, int64_t slot);
int64_t index_score_room(const ModelConfig& config);  // floats

// Bytes of a thread's memory for one head of up to `rows` rows in expanded form; in the place of an MlaSlot.
size_t head_slot_bytes(const MlaSpec& m, int rows);

// A token of the step.
struct MlaToken {
  int slice, position;
  bool expanded;  // its form
  const int32_t* blocks;
};

// One layer's work on rows [begin, begin + rows) of the step.
struct MlaBlock {
  Trunk& t;
  const MlaSpec& m;
  const MlaWeights& w;
  MlaRoom& room;
  const Ops& ops;
  int layer, begin, rows, heads;
  const MlaToken* tokens;
  const int64_t* places;  // in the cache
  int kept = 0;           // rows of q_latent and out before this block's

  int64_t query_stride() const { return static_cast<int64_t>(heads) * m.cached_dim(); }
  bf16* page(int64_t block) const { return t.cache.pages(layer) + block * t.cache.page_stride(); }
  float* down(int row) const { return room.down.as<float>() + row * room.down_stride; }
  const float* cosines(int row) const { return &t.rope_cos[static_cast<size_t>(begin + row) * (m.rope.dims / 2)]; }
  const float* sines(int row) const { return &t.rope_sin[static_cast<size_t>(begin + row) * (m.rope.dims / 2)]; }
  // Whether the indexer picks the token's keys; up to top_k it would take them all.
  bool sparse(int row) const { return m.indexer && tokens[row].position >= m.indexer->top_k; }
  int32_t* picked(int row) const { return room.keys.as<int32_t>() + static_cast<int64_t>(row) * m.indexer->top_k; }
};

inline void to_bf16_row(const Ops& ops, const float* x, int64_t n, bf16* out) {
  ops.gate_output(x, nullptr, static_cast<int>(n), out);
}

void project_down(const MlaBlock& b);     // latents of queries and keys; the latter, and the index keys, to the cache
void absorb_queries(const MlaBlock& b);   // queries in latent form, with their rotated part behind
void pick_keys(const MlaBlock& b);        // of the rows that see more than top_k, as the indexer has it
void attend(const MlaBlock& b);           // weighted sums of latents into `mixed`
void project_up(const MlaBlock& b);       // the heads' value projections into `out`
void attend_expanded(const MlaBlock& b);  // of rows of one sequence, from latents of queries to `out`
void project_out(const MlaBlock& b);      // the output projection into y

inline Rows latent_queries(const MlaBlock& b) {
  return {.data = b.room.q_latent.as<bf16>() + static_cast<int64_t>(b.kept) * b.m.q_rank,
          .stride = b.m.q_rank,
          .count = b.rows};
}

}  // namespace kt
