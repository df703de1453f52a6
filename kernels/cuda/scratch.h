#pragma once

#include "kernels/device.h"

// What the operations on a GPU keep between their launches, in the device's memory unless said otherwise. Taken once,
// for the largest step, and planned by the same functions.

namespace kt {

// Rows as int8 with the scales of their groups, for weights that want them so; room for groups of one tile.
struct QuantisedRoom {
  int8_t* q = nullptr;
  QuantGroup* groups = nullptr;
};

// Rows and sums travel in waves of so many rows.
inline constexpr int kWaveRows = 128;
// Memory that is filled from its beginning to its end before any of it is filled again.
struct Staging {
  std::byte* at = nullptr;
  size_t bytes = 0, used = 0;
};

// Softmax states and values (head_dim) of so many pairs of a query and a span of keys, before they are merged; and of
// the last queries of a wave of them that have spans in the next one, for every other wave.
inline constexpr int kSpanQueries = 32;  // of one key-value head that share a block, at most
struct AttentionRoom {
  SoftmaxState *states = nullptr, *carried_states[2] = {};
  float *values = nullptr, *carried_values[2] = {};
  int64_t pairs = 0;
};

// Some rows of one expert, and its weights. Their numbers and weights follow one another from `first` on, their
// activations lie from row `at` on.
struct RowTask {
  const std::byte *gate_up, *down;
  int first, count, at;
};
struct ExpertOrders {  // by expert; of one call
  int32_t* row = nullptr;
  float* weight = nullptr;
  RowTask* tasks = nullptr;
};
inline constexpr int kActivationRows = 4096;  // at a time; they keep a device busy
struct ExpertRoom {
  std::byte* orders = nullptr;
  bf16* activations = nullptr;
  int rows = 0;                // of activations
  QuantisedRoom x, quantised;  // rows of the batch; activations
};

// Latent attention: parts are queries of a row and a head, and of one span; the forms take turns.
struct LatentSpanRoom {
  int64_t parts = 0;
  SoftmaxState* states = nullptr;
  float* values = nullptr;                 // (parts, kv_rank)
  SoftmaxState* carried_states = nullptr;  // of one row whose spans there is no room for
  float* carried = nullptr;                // (heads, kv_rank)
};
struct LatentIndexRoom {
  int64_t scores_count = 0;
  float* scores = nullptr;
};
struct LatentExpandedRoom {
  float* q = nullptr;              // (rows, heads of a group, head_dim)
  bf16* queries = nullptr;         // (heads, rows, head_dim)
  bf16* up = nullptr;              // (heads, nope_dim + value_dim, kv_rank)
  bf16* expanded = nullptr;        // (heads, keys, head_dim + value_dim)
  SoftmaxState* states = nullptr;  // (heads, rows), merged
  float* sums = nullptr;           // (heads, rows, value_dim)
};
struct LatentRoom {
  LatentSpanRoom spans;
  LatentIndexRoom index;
  LatentExpandedRoom expanded;
};
// Heads that are expanded at a time for so many rows, and spans of their keys.
int expanded_heads(const LatentHeads& heads, int rows);
int expanded_spans(int heads);

struct CudaScratch {
  QuantisedRoom inputs;  // of products
  ExpertRoom experts;
  AttentionRoom attention;
  LatentRoom latent;
  bf16* leaving = nullptr;  // a wave of rows_out
};
inline constexpr int64_t kEmbeddedBytes = 16 << 20;
struct PinnedScratch {            // that the host writes
  Staging orders;                 // of experts
  int* rows_of_expert = nullptr;  // counted
  bf16* embedded = nullptr;       // some rows of embed
  Staging sums;                   // of sums_in
};

// Attention, experts and products take turns: they share the memory.
CudaScratch lay_out_cuda(Layout& layout, std::byte* memory, const StepShape& shape);
PinnedScratch lay_out_pinned(Layout& layout, const StepShape& shape);
// What CudaDevice::reserve takes, pinned memory included.
size_t cuda_reserve_bytes(const StepShape& largest, int threads);

AttentionRoom lay_out_attention_room(Layout& layout, const StepShape& shape);
ExpertOrders lay_out_orders(Layout& layout, int64_t pairs, int64_t tasks);
ExpertRoom lay_out_expert_room(Layout& layout, const ExpertShape& shape);
QuantisedRoom lay_out_quantised_room(Layout& layout, int64_t rows, int64_t columns);
LatentRoom lay_out_latent_room(Layout& layout, std::byte* memory, const StepShape& shape);

}  // namespace kt
