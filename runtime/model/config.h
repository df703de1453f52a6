#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kt {

// Numbers only: nothing here knows an architecture's name. Names follow the papers and Hugging Face configs.

enum class Mixer : uint8_t { attention, delta_net };
enum class Ffn : uint8_t { dense, moe };
struct LayerSpec {
  Mixer mixer = Mixer::attention;
  Ffn ffn = Ffn::moe;
};

struct RopeSpec {
  double theta = 1e4;
  int dims = 0;  // rotated dims of a head, the first ones, half-split pairs (i, i + dims/2)
};

// Grouped-query attention, softmax scale head_dim^-1/2.
struct AttentionSpec {
  int heads = 0, kv_heads = 0, head_dim = 0;
  bool bias = false;     // q, k, v projections have biases
  bool qk_norm = false;  // RMS norm of each q and k head before rope
  bool gated = false;    // q_proj holds per head [query | gate]; the output is multiplied by sigmoid(gate)
  RopeSpec rope;
};

// Gated delta rule (linear attention) with a causal depthwise convolution in front.
struct DeltaSpec {
  int key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0, conv_kernel = 0;
  int conv_channels() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
};

struct MoeSpec {
  int experts = 0, top_k = 0, inter = 0;
  bool norm_topk = false;    // routing weights are divided by their sum
  int shared_inter = 0;      // 0: no shared expert
  bool shared_gate = false;  // shared expert is multiplied by sigmoid(gate row . x)
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
  DeltaSpec delta;
  MoeSpec moe;
  QuantSpec quant;
  std::vector<int32_t> eos;  // from config.json; generation_config.json adds to it
};

}  // namespace kt
