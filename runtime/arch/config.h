#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kt {

// Numbers only: nothing here knows an architecture's name. Names follow the papers and Hugging Face configs.

enum class Mixer : uint8_t { attention, mla, delta_net };
enum class Ffn : uint8_t { dense, moe };
struct LayerSpec {
  Mixer mixer = Mixer::attention;
  Ffn ffn = Ffn::moe;
};

struct RopeSpec {
  double theta = 1e4;
  int dims = 0;  // rotated dims of a head, the first ones, half-split pairs (i, i + dims/2)

  // YaRN (Peng et al., 2023): frequencies that turn less than beta_slow times within the original context are divided
  // by the factor, those that turn more than beta_fast times are kept. Factor 1: none.
  double yarn_factor = 1.0, beta_fast = 32.0, beta_slow = 1.0;
  int original_context = 0;
};

// Grouped-query attention, softmax scale head_dim^-1/2.
struct AttentionSpec {
  int heads = 0, kv_heads = 0, head_dim = 0;
  bool bias = false;     // q, k, v projections have biases
  bool qk_norm = false;  // RMS norm of each q and k head before rope
  bool gated = false;    // q_proj holds per head [query | gate]; the output is multiplied by sigmoid(gate)
  RopeSpec rope;
};

// DeepSeek sparse attention: an indexer of its own heads, all with one key per token, picks the top_k keys that a query
// sees. Its rope is half-split over the first dims of a head.
struct IndexerSpec {
  int heads = 0, head_dim = 0, top_k = 0;
};

// Multi-head latent attention (DeepSeek-V2, 2024): keys and values of all heads are projections of one latent per
// token, and one rotated key part is shared by all heads. Head dims: nope_dim without rope, then rope_dim = rope.dims
// in pairs (2i, 2i + 1).
struct MlaSpec {
  int heads = 0;
  int q_rank = 0, kv_rank = 0;  // of the latents
  int nope_dim = 0, value_dim = 0;
  float scale = 0.0f;  // of the scores: (nope_dim + rope_dim)^-1/2, times YaRN's m^2
  std::optional<IndexerSpec> indexer;
  RopeSpec rope;

  int head_dim() const { return nope_dim + rope.dims; }
  int cached_dim() const { return kv_rank + rope.dims; }  // per token: latent, rotated key part
};

// Gated delta rule (linear attention) with a causal depthwise convolution in front.
struct DeltaSpec {
  int key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0, conv_kernel = 0;
  int conv_channels() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
};

// Scores by sigmoid, a stored bias that picks but does not weigh, and experts in groups of which the best are kept.
struct SigmoidSpec {
  int groups = 1, kept_groups = 1;
  float scale = 1.0f;  // of the weights, after dividing by their sum
};

struct MoeSpec {
  int experts = 0, top_k = 0, inter = 0;
  bool norm_topk = false;              // routing weights are divided by their sum
  std::optional<SigmoidSpec> sigmoid;  // how experts are scored when not by softmax
  int shared_inter = 0;                // 0: no shared expert
  bool shared_gate = false;            // shared expert is multiplied by sigmoid(gate row . x)
};

// How a checkpoint stores what is quantised; the rest is BF16. A loader looks at the tensors, which decide.
enum class Stored : uint8_t { bf16, fp8_block, int4_group };
struct QuantSpec {
  Stored stored = Stored::bf16;
  int block_rows = 128, block_columns = 128;  // of fp8_block
};

struct ModelConfig {
  std::string architecture;  // config.json "architectures"[0], for messages and /model_info
  int hidden = 0, vocab = 0, max_context = 0;
  int dense_inter = 0;  // width of dense feed-forward layers, when there are any
  float norm_eps = 1e-6f;
  bool norm_plus_one = false;  // norm weights are stored around 0: y = (1 + w) rms(x)
  bool tied_head = false;      // the head is the embedding
  std::vector<LayerSpec> layers;
  AttentionSpec attention;
  MlaSpec mla;  // a model has one kind of attention: heads is 0 in the other
  DeltaSpec delta;
  MoeSpec moe;
  QuantSpec quant;

  int query_heads() const { return mla.heads ? mla.heads : attention.heads; }
  const RopeSpec& rope() const { return mla.heads ? mla.rope : attention.rope; }

  std::vector<int32_t> eos;  // from config.json; generation_config.json adds to it
};

}  // namespace kt
