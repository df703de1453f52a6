#include "runtime/arch/skeleton.h"

#include <fmt/format.h>

#include "runtime/arch/limits.h"
#include "runtime/arch/quantization.h"

namespace kt {

void require_text(const ConfigReader& json, const char* key, const char* only) {
  const std::string found = json.text_or(key, only);
  if (found != only) json.refuse(key, fmt::format("\"{}\" is not supported, only {} is", found, only));
}

void read_skeleton(const ConfigReader& json, ModelConfig& config) {
  require_text(json, "hidden_act", "silu");
  if (json.boolean_or("attention_bias", false))
    json.refuse("attention_bias", "biases of the attention projections are not supported for this architecture");
  config.quant = read_quantization(json);
  config.hidden = json.integer("hidden_size", 1, kMaxWidth);
  config.vocab = json.integer("vocab_size", 1, kMaxVocab);
  config.max_context = json.integer("max_position_embeddings", 1, kMaxContext);
  config.norm_eps = static_cast<float>(json.number_or("rms_norm_eps", 1e-6, 0.0, 1.0));
  config.tied_head = json.boolean_or("tie_word_embeddings", false);
  config.layers.resize(static_cast<size_t>(json.integer("num_hidden_layers", 1, kMaxLayers)));
  config.eos = json.integers("eos_token_id", 0, kMaxVocab);
}

}  // namespace kt
