#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/batch.h"
#include "kernels/buffer.h"
#include "kernels/mat.h"
#include "kernels/ops.h"
#include "kernels/wire.h"

namespace kt {

class Nccl;

// Grouped-query attention of a rank. A row of its projections: queries | output gates, if gated | keys | values.
struct GroupedHeads {
  int heads = 0, kv_heads = 0, head_dim = 0;  // 0 heads: none
  bool gated = false;

  constexpr int group() const { return heads / kv_heads; }
  constexpr int64_t query_columns() const { return static_cast<int64_t>(heads) * head_dim; }
  constexpr int64_t keys_at() const { return (gated ? 2 : 1) * query_columns(); }
  constexpr int64_t values_at() const { return keys_at() + static_cast<int64_t>(kv_heads) * head_dim; }
  constexpr int64_t columns() const { return values_at() + static_cast<int64_t>(kv_heads) * head_dim; }
};

// Gated delta net of a rank. A row of its projections: queries | keys | values | z; the first three are convolved. A
// row of its gates: b | a, one of each per value head, which become beta | alpha.
struct DeltaHeads {
  int key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0, taps = 0;

  constexpr int keys_at() const { return key_heads * key_dim; }
  constexpr int values_at() const { return 2 * keys_at(); }
  constexpr int channels() const { return values_at() + value_heads * value_dim; }
};

// Latent attention of a rank, with or without an indexer (DeepSeek sparse attention).
struct LatentHeads {
  int heads = 0;  // 0: none
  int q_rank = 0, kv_rank = 0, nope_dim = 0, rope_dim = 0, value_dim = 0;
  float scale = 0.0f;
  int index_heads = 0, index_dim = 0, top_k = 0;  // 0: no indexer

  constexpr int head_dim() const { return nope_dim + rope_dim; }
  constexpr int cached_dim() const { return kv_rank + rope_dim; }
  constexpr int64_t latent_elements() const { return static_cast<int64_t>(kKvBlock) * cached_dim(); }  // of a page
};

// One layer's pages in the cache: page b at `at` + b * stride.
//   grouped heads  of each key-value head its keys and values (ops.h)
//   latents        (kKvBlock, cached_dim) latent and rotated key part; then, with an indexer, its kKvBlock keys as a
//                  packed matrix (n = kKvBlock, k = index_dim), ready to be multiplied with
struct Pages {
  bf16* at = nullptr;
  int64_t stride = 0;

  constexpr bf16* page(int64_t b) const { return at + b * stride; }
};
// Something of one layer for every slot of recurrent state.
struct Slots {
  float* at = nullptr;
  int64_t stride = 0;

  constexpr float* slot(int64_t i) const { return at + i * stride; }
};

struct Product {
  const PackedMatrix& w;
  Mat<float> out;  // has room for whole panels
};

struct HeadsJob {
  GroupedHeads heads;
  Mat<float> rows;              // of projections
  std::span<const float> bias;  // empty: none
  const float *q_norm = nullptr, *k_norm = nullptr;
  float eps = 0.0f;
  Pages pages;
};

// Weights and cache of one layer of latent attention.
struct LatentLayer {
  LatentHeads heads;
  Pages pages;
  const PackedMatrix* q_b = nullptr;       // (heads * head_dim, q_rank)
  const PackedMatrix* key_up = nullptr;    // per head, transposed: (kv_rank, nope_dim)
  const PackedMatrix* value_up = nullptr;  // per head: (value_dim, kv_rank)
  const float *q_norm = nullptr, *kv_norm = nullptr, *index_norm = nullptr, *index_bias = nullptr;
};
// Rows [first, first + count) of the batch. Matrices that come with them have `count` rows.
struct RowRange {
  int first = 0, count = 0;
};
inline constexpr int kMaxExpandedRows = 2048;  // of attend_expanded
// What is projected from the normed rows.
struct LatentRows {
  Mat<float> q, kv, index_key, index_weights;
};

// SwiGLU on some of the intermediate columns.
struct FfnWeights {
  PackedMatrix gate_up, down;
  int columns = 0;  // true ones; 0: none here
};

// Which experts each row wants, in host memory: row r goes to ids[r * top_k + j] with weights[r * top_k + j]; -1:
// another sees to it.
struct Routing {
  std::span<const int32_t> ids;
  std::span<const float> weights;
  int rows = 0, top_k = 0;
};

struct RouteJob {
  Mat<float> logits;                        // (rows, experts), and one for the shared expert's gate; used up
  const SigmoidRouting* sigmoid = nullptr;  // null: the largest of a softmax
  int experts = 0, top_k = 0;
  bool normalise = false;
  int32_t* ids = nullptr;  // (rows, top_k) of both, in take_host's memory: there after wait()
  float* weights = nullptr;
  float* shared_gate = nullptr;  // null: none
};

struct ExpertsJob {
  const FfnWeights* experts = nullptr;  // of one layer
  int slice = 0;                        // of Ops::matmul_add
  Mat<bf16> x;
  Routing routing;
  Mat<double> y;
};

// The largest of what will be asked for: it decides how much memory a device sets aside for its own use.
struct ExpertShape {
  int experts = 0, top_k = 0, hidden = 0, columns = 0, rows = 0;
  Format format = Format::BF16;  // room for a format with 8-bit activations will do for every format
};
struct StepShape {
  int rows = 0, context = 0;  // tokens of a step and of a sequence
  int int8_columns = 0;       // inputs of the widest of its products with 8-bit activations, experts apart
  bool tensor_cores = false;  // products may have another order of sums than ref's
  GroupedHeads attention;
  LatentHeads latent;
  ExpertShape experts;
};

// The seam between the model and what computes it: memory, and the batched operations that a step is made of. Model
// code is written once against it and does not ask which one it has. An operation may return before it is done:
// operations follow one another, and the host sees what they did after wait(). None of them allocates. One thread at a
// time may use a device, but for take and take_host.
class Device {
 public:
  virtual ~Device() = default;

  // ---- memory: zeroed, 64-byte aligned
  virtual Buffer take(size_t bytes) = 0;
  virtual Buffer take_host(size_t bytes) = 0;  // that the host may read, and the device write
  // Memory of the host that others map too: from now on like take_host's, for as long as the device lives.
  virtual void adopt(void* host, size_t bytes) = 0;
  virtual void write(void* to, const void* host, size_t bytes) = 0;
  // Where the host makes bytes that write() then takes to `to`: there itself, where it can; or as many of them as fit
  // into memory of its own, which the next window is again.
  virtual std::span<std::byte> window(std::byte* to, size_t bytes) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  virtual void clear(void* at, size_t bytes) = 0;
  // On the host, ld and all; valid until x changes. Adopted memory is there already.
  virtual const float* read(const Mat<float>& x) = 0;
  virtual void wait() = 0;
  virtual void reserve(const StepShape& largest) = 0;  // before the first step
  virtual ThreadPool& host_threads() = 0;              // for what is no step: loading, fetching

  // ---- a step's begin: what rows, positions and sequences are from now on; fills the rotary angles, on every device
  // alike. The batch must stay as it is while the step goes on.
  virtual void begin(Batch& batch) = 0;

  // ---- rows. Inputs of products are readable up to a multiple of 32 columns, and zero there.
  // x[r] = the row that `read` puts there, bf16.
  virtual void embed(const Mat<float>& x, const std::function<void(int row, bf16* to)>& read) = 0;
  // h = RMS norm of x, times w; y = 0.
  virtual void norm(const Mat<float>& x, const float* w, float eps, const Mat<bf16>& h, const Mat<double>& y) = 0;
  // x += y; then the same.
  virtual void add_norm(const Mat<float>& x, const Mat<double>& y, const float* w, float eps, const Mat<bf16>& h) = 0;
  // h[i] = norm of x + y of the batch's i-th logit row.
  virtual void last_norm(const Mat<float>& x, const Mat<double>& y, const float* w, float eps, const Mat<bf16>& h) = 0;
  // out = x w^T, for each of them.
  virtual void linear(const Mat<bf16>& x, std::initializer_list<Product> products) = 0;
  // y += scale[row] x w^T in slices, on the grid of sums (Ops::matmul_add); scale null: 1.
  virtual void linear_sum(const Mat<bf16>& x, const PackedMatrix& w, int slice, const float* scale,
                          const Mat<double>& y) = 0;
  // h = bf16(silu(gate) up); see Ops::swiglu.
  virtual void swiglu(const Mat<bf16>& x, const PackedMatrix& gate_up, const Mat<bf16>& h) = 0;

  // ---- grouped-query attention
  // Bias, norm and rope of queries and keys, in place; keys and values into the cache.
  virtual void heads(const HeadsJob& job) = 0;
  // out = softmax(q k^T / sqrt(head_dim)) v over all positions up to a row's own, gated.
  virtual void attend(const GroupedHeads& heads, const Mat<float>& rows, const Pages& pages, const Mat<bf16>& out) = 0;

  // ---- gated delta net. States and histories are updated, and saved where the batch says so.
  virtual void conv(const DeltaHeads& heads, const Mat<float>& rows, const float* w, const Slots& history,
                    const Mat<float>& convolved) = 0;
  virtual void delta_inputs(const DeltaHeads& heads, const Mat<float>& convolved, const Mat<float>& gates,
                            const float* decay, const float* dt_bias) = 0;
  virtual void delta_rule(const DeltaHeads& heads, const Mat<float>& convolved, const Mat<float>& gates,
                          const Slots& state, const Mat<float>& out) = 0;
  // out = norm of each head of x, times w and silu(z).
  virtual void gated_norm(const DeltaHeads& heads, const Mat<float>& x, const Mat<float>& rows, const float* w,
                          float eps, const Mat<bf16>& out) = 0;

  // ---- latent attention; runtime/model/mixers/mla.cpp says how its forms go together
  // Norms and rope: latents of queries; those of keys, and index keys, into the cache.
  virtual void latents(const LatentLayer& l, RowRange rows, const LatentRows& projected, const Mat<bf16>& q_latent) = 0;
  // Queries in latent form, rotated part behind, of every head: (heads, cached_dim).
  virtual void absorb(const LatentLayer& l, RowRange rows, const Mat<float>& q, const Mat<bf16>& query) = 0;
  // Positions that the indexer picks, of rows that see more than top_k; q is used up.
  virtual void pick(const LatentLayer& l, RowRange rows, const Mat<float>& q, const Mat<bf16>& q16,
                    const Mat<float>& weights, const Mat<int32_t>& picked) = 0;
  // Weighted sums of latents of every head: (heads, kv_rank).
  virtual void attend_latents(const LatentLayer& l, RowRange rows, const Mat<bf16>& query, const Mat<int32_t>& picked,
                              const Mat<bf16>& sums) = 0;
  virtual void value_up(const LatentLayer& l, const Mat<bf16>& sums, const Mat<bf16>& out) = 0;
  // The same from the queries' latents on, in expanded form; rows of one sequence that see all keys before them.
  virtual void attend_expanded(const LatentLayer& l, RowRange rows, const Mat<bf16>& q_latent,
                               const Mat<bf16>& out) = 0;

  // ---- experts
  virtual void route(const RouteJob& job) = 0;
  // y[r] += sum over j of weight * down(silu(gate(x_r)) * up(x_r)), for the columns that are here, on the grid of sums.
  // Returns the bytes of the experts that this touches.
  virtual double experts(const ExpertsJob& job) = 0;
  // Some rows of x to the host, one after the other, there after wait(); and sums from there added to rows of y.
  virtual void rows_out(const Mat<bf16>& x, std::span<const int32_t> rows, const Mat<bf16>& host) = 0;
  virtual void sums_in(const WireSums& host, std::span<const int32_t> rows, const Mat<double>& y) = 0;

  // ---- sums over the devices of several ranks, without the host; DeviceKind::has_nccl
  virtual void join(std::unique_ptr<Nccl> ranks);
  // values = their sum over all that have joined. On the grid of sums, so the order of adding does not show.
  virtual void sum(std::span<double> values);
};

// Loops over Ops on the pool's threads, memory on a NUMA node (-1: any).
std::unique_ptr<Device> make_cpu_device(const Ops& ops, ThreadPool& pool, int numa_node);
size_t cpu_reserve_bytes(const StepShape& largest, int threads);

// One that this process may use; `name` is no other one's, on this machine.
struct DeviceHere {
  int index = 0;
  std::string name;
};
struct DevicesHere {
  std::vector<DeviceHere> devices;
  std::string why_none;  // or not more of them
};

// What a trunk may run on; devices.cpp has the table. The CPU comes first.
struct DeviceKind {
  std::string_view name;  // as the option `device` has it
  // A process makes devices of one index only.
  std::unique_ptr<Device> (*make)(const Ops& ops, ThreadPool& pool, int numa_node, int index);
  size_t (*reserve_bytes)(const StepShape& largest, int threads);  // what its reserve() takes
  bool host_writes;                                                // a host may write into its memory, and read there
  bool on_host;                                                    // its memory is a part of the machine's
  bool has_nccl;                                                   // Device::join and sum
  // Of those with memory of their own; else null.
  DevicesHere (*list)();
  size_t (*available_bytes)(int index);  // that are free
};
std::span<const DeviceKind> device_kinds();
inline const DeviceKind& cpu_kind() { return device_kinds().front(); }
const DeviceKind* find_device_kind(std::string_view name);  // null: none of that name
// Compute capabilities that the device on NVIDIA GPUs is built for, as CMake writes them; "": it is not built.
std::string_view cuda_architectures();
// Whether code for such architectures ("80-real 90 120-virtual") runs on a GPU of a capability (90 is 9.0).
bool runs_on(std::string_view architectures, int capability);

// Takes memory, take(bytes), for what lay_out(Layout&) lays out, and returns that.
template <class Take, class LayOut>
auto take_laid_out(Buffer& memory, const Take& take, const LayOut& lay_out) {
  Layout counted;
  lay_out(counted);
  memory = take(counted.bytes());
  Layout placed(memory.bytes());
  return lay_out(placed);
}

}  // namespace kt
