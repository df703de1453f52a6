#pragma once

#include "runtime/arch/config.h"
#include "runtime/arch/read_config.h"

// What the configs of the Qwen MoE family share. Each function reads its keys and refuses what it cannot honour.

namespace kt::qwen {

// That of all families; refuses sliding windows.
void read_skeleton(const ConfigReader& json, ModelConfig& config);

// Heads and rope. Without head_dim in the config it is hidden / heads.
void read_attention(const ConfigReader& json, ModelConfig& config);

// The rotated share of a head is partial_rotary_factor, or this when the config does not say.
void read_rope(const ConfigReader& json, double default_theta, double default_share, ModelConfig& config);

void read_experts(const ConfigReader& json, ModelConfig& config);
void read_shared_expert(const ConfigReader& json, ModelConfig& config);

// Layers without experts, from mlp_only_layers and decoder_sparse_step.
void read_dense_layers(const ConfigReader& json, ModelConfig& config);

// Which layers are full attention, from layer_types or full_attention_interval; the others are gated delta nets.
void read_hybrid_layers(const ConfigReader& json, ModelConfig& config);
void read_delta(const ConfigReader& json, ModelConfig& config);

}  // namespace kt::qwen
