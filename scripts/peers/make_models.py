"""Random models of the sizes that end_to_end.py compares: Hugging Face folders in BF16.

    make_models.py FOLDER NAME      in an environment with torch, safetensors and tokenizers

Four layers as wide as the releases' (Qwen3-30B-A3B; Qwen3-Next with 128 experts of its 512), so that a machine of 24 GB
holds them and a step reads what a layer of the release reads. Weights are normal with a deviation of 0.02, as a model's
are before it is trained.
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCABULARY, LAYERS, HIDDEN = 32768, 4, 2048
COMMON = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_experts": 128, "hidden_act": "silu",
          "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "rms_norm_eps": 1e-6,
          "max_position_embeddings": 8192, "tie_word_embeddings": False, "attention_bias": False, "dtype": "bfloat16",
          "torch_dtype": "bfloat16", "bos_token_id": 257, "eos_token_id": 258}
CONFIGS = {
    "qwen3_moe": {**COMMON, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "intermediate_size": 6144,
                  "moe_intermediate_size": 768, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
                  "num_experts_per_tok": 8, "rope_theta": 1e6},
    "qwen3_next": {**COMMON, "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "intermediate_size": 5120,
                   "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_attention_heads": 16,
                   "num_key_value_heads": 2, "head_dim": 256, "num_experts_per_tok": 10, "rope_theta": 1e7,
                   "partial_rotary_factor": 0.25, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
                   "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
                   "linear_num_value_heads": 32},
}


def normal(*shape):
    return torch.randn(*shape, dtype=torch.bfloat16) * 0.02


def ones(n):
    return torch.ones(n, dtype=torch.bfloat16)


def attention(c, norm):
    heads, kv, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    gates = 2 if c["model_type"] == "qwen3_next" else 1  # a gate beside every query
    return {"q_proj.weight": normal(gates * heads * dim, HIDDEN), "k_proj.weight": normal(kv * dim, HIDDEN),
            "v_proj.weight": normal(kv * dim, HIDDEN), "o_proj.weight": normal(HIDDEN, heads * dim),
            "q_norm.weight": norm(dim), "k_norm.weight": norm(dim)}


def delta_net(c):
    keys, values = (c[f"linear_num_{x}_heads"] * c[f"linear_{x}_head_dim"] for x in ("key", "value"))
    heads = c["linear_num_value_heads"]
    return {"in_proj_qkvz.weight": normal(2 * keys + 2 * values, HIDDEN), "in_proj_ba.weight": normal(2 * heads, HIDDEN),
            "conv1d.weight": normal(2 * keys + values, 1, c["linear_conv_kernel_dim"]), "dt_bias": ones(heads),
            "A_log": torch.rand(heads).to(torch.bfloat16), "norm.weight": ones(c["linear_value_head_dim"]),
            "out_proj.weight": normal(HIDDEN, values)}


def feed_forward(width):
    return {"gate_proj.weight": normal(width, HIDDEN), "up_proj.weight": normal(width, HIDDEN),
            "down_proj.weight": normal(HIDDEN, width)}


def layer(c, index):
    is_next = c["model_type"] == "qwen3_next"
    norm = (lambda n: torch.zeros(n, dtype=torch.bfloat16)) if is_next else ones  # Qwen3-Next's weights say by how much not 1
    tensors = {"input_layernorm.weight": norm(HIDDEN), "post_attention_layernorm.weight": norm(HIDDEN),
               "mlp.gate.weight": normal(c["num_experts"], HIDDEN)}

    def add(prefix, part):
        tensors.update({prefix + name: tensor for name, tensor in part.items()})

    if is_next and (index + 1) % c["full_attention_interval"]:
        add("linear_attn.", delta_net(c))
    else:
        add("self_attn.", attention(c, norm))
    for e in range(c["num_experts"]):
        add(f"mlp.experts.{e}.", feed_forward(c["moe_intermediate_size"]))
    if is_next:
        add("mlp.shared_expert.", feed_forward(c["shared_expert_intermediate_size"]))
        tensors["mlp.shared_expert_gate.weight"] = normal(1, HIDDEN)
    return {f"model.layers.{index}.{name}": tensor for name, tensor in tensors.items()}


def write_tokenizer(folder):
    """Bytes, and one merge, without which llama.cpp does not take it."""
    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["ab"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|bos|>", "<|endoftext|>"])
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|endoftext|>"}, file)


def main():
    folder, name = sys.argv[1:]
    config = CONFIGS[name]
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(0)
    norm = torch.zeros if name == "qwen3_next" else torch.ones
    parts = [lambda i=i: layer(config, i) for i in range(LAYERS)]
    parts.append(lambda: {"model.embed_tokens.weight": normal(VOCABULARY, HIDDEN), "lm_head.weight": normal(VOCABULARY, HIDDEN),
                          "model.norm.weight": norm(HIDDEN, dtype=torch.bfloat16)})
    index = {}
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05}-of-{len(parts):05}.safetensors"
        tensors = part()
        save_file(tensors, os.path.join(folder, file), metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, file))
    write_tokenizer(folder)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
        json.dump({"metadata": {}, "weight_map": index}, file)
    # Written last: whoever finds it finds all.
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)


if __name__ == "__main__":
    main()
