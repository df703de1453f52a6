"""Writes checkpoints of every supported architecture in any small shape, with random weights, in the form of the releases
or in that of transformers 5; and keeps what the stored numbers mean, in float64, for float_model.py.

A stored form is "bf16", "f16", "f32", "fp8" (E4M3, one float32 scale for each block) or "int4" (symmetric, one bf16
scale for 32 columns).
"""
import hashlib
import json
import os

import numpy as np

E4M3 = np.array([(-1) ** (b >> 7) * ((b & 7) / 8 * 2.0 ** -6 if (b >> 3) & 15 == 0 else
                                     (1 + (b & 7) / 8) * 2.0 ** (((b >> 3) & 15) - 7)) for b in range(256)])
POSITIVE = E4M3[:0x7f]  # ascending


def to_bf16(x):
    """The bits of the nearest bf16."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + ((u >> 16) & 1) + np.uint32(0x7fff)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def spread(scales, rows, columns, shape):
    """A scale for every element of a matrix."""
    return np.repeat(np.repeat(scales, rows, 0), columns, 1)[:shape[0], :shape[1]]


class Tensors:
    """What is stored, by name: (type, shape, bytes); and `value`: what it means."""

    def __init__(self, seed, block=(128, 128)):
        self.seed, self.block, self.stored, self.value = seed, block, {}, {}

    def random(self, name, shape, std=1.0, mean=0.0):
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}:{name}".encode()).digest()[:8], "little")
        return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape) * std + mean

    def put(self, name, x, form="bf16"):
        x = np.asarray(x, np.float64)
        if form in ("fp8", "int4"):
            return getattr(self, form)(name, x)
        kind = {"bf16": "BF16", "f16": "F16", "f32": "F32"}[form]
        bits = to_bf16(x) if form == "bf16" else x.astype(np.float16 if form == "f16" else np.float32)
        self.stored[name] = (kind, x.shape, bits.tobytes())
        self.value[name] = from_bf16(bits) if form == "bf16" else bits.astype(np.float64)

    def fp8(self, name, x):
        rows, columns = self.block
        blocks = (-(-x.shape[0] // rows), -(-x.shape[1] // columns))
        magnitude = np.exp(self.random(name + "/blocks", blocks, 0.5))  # so that a misplaced scale shows
        x = x * spread(magnitude, rows, columns, x.shape)
        padded = np.zeros((blocks[0] * rows, blocks[1] * columns))
        padded[:x.shape[0], :x.shape[1]] = np.abs(x)
        scales = (padded.reshape(blocks[0], rows, blocks[1], columns).max((1, 3)) / 448).astype(np.float32)
        wide = spread(scales.astype(np.float64), rows, columns, x.shape)
        size = np.abs(x) / wide
        above = np.searchsorted(POSITIVE, size).clip(1, len(POSITIVE) - 1)
        nearest = above - (size - POSITIVE[above - 1] < POSITIVE[above] - size)
        bits = (nearest | np.where(x < 0, 128, 0)).astype(np.uint8)
        self.stored[name] = ("F8_E4M3", x.shape, bits.tobytes())
        self.stored[name + "_scale_inv"] = ("F32", blocks, scales.tobytes())
        self.value[name] = E4M3[bits] * wide

    def int4(self, name, x):
        groups = x.reshape(x.shape[0], -1, 32)
        scales = to_bf16(np.abs(groups).max(-1) / 7.5)
        wide = from_bf16(scales)[:, :, None]
        q = np.rint(groups / wide).clip(-8, 7)
        nibbles = (q.reshape(x.shape[0], -1, 8) + 8).astype(np.uint32)
        self.stored[name + "_packed"] = ("I32", (x.shape[0], x.shape[1] // 8),
                                         (nibbles << (4 * np.arange(8, dtype=np.uint32))).sum(-1, dtype=np.uint32).tobytes())
        self.stored[name + "_scale"] = ("BF16", scales.shape, scales.tobytes())
        self.stored[name + "_shape"] = ("I64", (2,), np.array(x.shape, np.int64).tobytes())
        self.value[name] = (q * wide).reshape(x.shape)

    def matrix(self, name, out, inputs, form="bf16", gain=1.0):
        self.put(name + ".weight", self.random(name, (out, inputs), gain / inputs ** 0.5), form)

    def write(self, folder):
        header, at = {}, 0
        for name, (kind, shape, data) in self.stored.items():
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + len(data)]}
            at += len(data)
        text = json.dumps(header).encode()
        with open(os.path.join(folder, "model.safetensors"), "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for _, _, data in self.stored.values():
                f.write(data)


# ---- parts of a model ----------------------------------------------------------------------------------------------

def norm(t, name, n, around_zero, form):
    t.put(name + ".weight", t.random(name, (n,), 0.15, 0.0 if around_zero else 1.0), form)


def swiglu(t, at, hidden, inter, form):
    t.matrix(at + "gate_proj", inter, hidden, form, 1.4)
    t.matrix(at + "up_proj", inter, hidden, form)
    t.matrix(at + "down_proj", hidden, inter, form, 1.2)


def attention(t, at, c, forms, bias, qk_norm, gated):
    d, hidden = c["head_dim"], c["hidden_size"]
    for name, heads in (("q", c["num_attention_heads"]), ("k", c["num_key_value_heads"]), ("v", c["num_key_value_heads"])):
        rows = heads * d * (2 if gated and name == "q" else 1)
        t.matrix(f"{at}{name}_proj", rows, hidden, forms["linear"])
        if bias:
            t.put(f"{at}{name}_proj.bias", t.random(f"{at}{name}_proj.bias", (rows,), 0.3), forms["plain"])
        if qk_norm and name != "v":
            norm(t, f"{at}{name}_norm", d, gated, forms["plain"])
    t.matrix(at + "o_proj", hidden, c["num_attention_heads"] * d, forms["linear"], 1.4)


def delta_net(t, at, c, forms, grouped):
    hidden, dk, dv = c["hidden_size"], c["linear_key_head_dim"], c["linear_value_head_dim"]
    keys, values = c["linear_num_key_heads"], c["linear_num_value_heads"]
    channels = 2 * keys * dk + values * dv
    if grouped:
        t.matrix(at + "in_proj_qkvz", channels + values * dv, hidden, forms["linear"])
        t.matrix(at + "in_proj_ba", 2 * values, hidden, forms["plain"])
    else:
        t.matrix(at + "in_proj_qkv", channels, hidden, forms["linear"])
        t.matrix(at + "in_proj_z", values * dv, hidden, forms["linear"])
        t.matrix(at + "in_proj_b", values, hidden, forms["plain"])
        t.matrix(at + "in_proj_a", values, hidden, forms["plain"])
    taps = c["linear_conv_kernel_dim"]
    t.put(at + "conv1d.weight", t.random(at + "conv1d", (channels, 1, taps), 0.6), forms["plain"])
    t.put(at + "A_log", t.random(at + "A_log", (values,), 0.8, -1.0), forms["plain"])
    t.put(at + "dt_bias", t.random(at + "dt_bias", (values,), 0.9, -0.7), forms["plain"])
    norm(t, at + "norm", dv, False, forms["plain"])
    t.matrix(at + "out_proj", hidden, values * dv, forms["linear"], 1.5)


def latent_attention(t, at, c, forms, indexer):
    hidden, heads, rq, rk = c["hidden_size"], c["num_attention_heads"], c["q_lora_rank"], c["kv_lora_rank"]
    nope, rope, dv = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    t.matrix(at + "q_a_proj", rq, hidden, forms["linear"])
    norm(t, at + "q_a_layernorm", rq, False, forms["plain"])
    t.matrix(at + "q_b_proj", heads * (nope + rope), rq, forms["linear"])
    t.matrix(at + "kv_a_proj_with_mqa", rk + rope, hidden, forms["linear"])
    norm(t, at + "kv_a_layernorm", rk, False, forms["plain"])
    t.matrix(at + "kv_b_proj", heads * (nope + dv), rk, forms["linear"])
    t.matrix(at + "o_proj", hidden, heads * dv, forms["linear"], 1.4)
    if indexer:
        t.matrix(at + "indexer.wq_b", c["index_n_heads"] * c["index_head_dim"], rq, forms["linear"])
        t.matrix(at + "indexer.wk", c["index_head_dim"], hidden, forms["linear"])
        norm(t, at + "indexer.k_norm", c["index_head_dim"], False, forms["plain"])
        t.put(at + "indexer.k_norm.bias", t.random(at + "k_norm.bias", (c["index_head_dim"],), 0.15), forms["plain"])
        t.matrix(at + "indexer.weights_proj", c["index_n_heads"], hidden, forms["plain"])


def experts(t, at, c, count, forms, fused):
    hidden, inter = c["hidden_size"], c["moe_intermediate_size"]
    if not fused:
        for e in range(count):
            swiglu(t, f"{at}experts.{e}.", hidden, inter, forms["experts"])
        return
    t.put(at + "experts.gate_up_proj", t.random(at + "gate_up", (count, 2 * inter, hidden), hidden ** -0.5), forms["experts"])
    t.put(at + "experts.down_proj", t.random(at + "down", (count, hidden, inter), inter ** -0.5), forms["experts"])


# ---- models --------------------------------------------------------------------------------------------------------

def tokenizer(folder, vocab):
    """Byte by byte; whatever is beyond 256 has a name of its own."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) if b in printable else chr(256 + n) for b, n in
               zip(range(256), np.cumsum([b not in printable for b in range(256)]) - 1)]
    tokens = letters + [f"<{n}>" for n in range(256, vocab)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    text = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": level, "post_processor": None,
            "decoder": level, "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": []}}
    for name, content in (("tokenizer.json", text), ("tokenizer_config.json", {"chat_template": "{{ messages[0].content }}"})):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(content, f)


def write_model(folder, config, forms=None, prefix="model.", fused=False, grouped=True, seed=1):
    """Writes the checkpoint that `config`, a config.json, describes. `forms`: how linear layers, experts, the embedding,
    the head and the rest (plain) are stored. Returns what it means: name -> float64."""
    forms = {k: (forms or {}).get(k, "bf16") for k in ("linear", "experts", "embedding", "head", "plain")}
    c = config.get("text_config", config)
    kind = c["model_type"].removesuffix("_text")
    hybrid, deepseek = kind in ("qwen3_next", "qwen3_5_moe"), kind.startswith(("deepseek", "kimi"))
    hidden, vocab = c["hidden_size"], c["vocab_size"]
    count = next(c[k] for k in ("num_experts", "num_local_experts", "n_routed_experts") if k in c)
    t = Tensors(seed, tuple(config.get("quantization_config", {}).get("weight_block_size", (128, 128))))

    tied = c.get("tie_word_embeddings", False)  # then it is the head, too
    t.put(prefix + "embed_tokens.weight", t.random("embedding", (vocab, hidden), 3 * hidden ** -0.5 if tied else 1.0),
          forms["embedding"])
    if not tied:
        t.matrix("lm_head", vocab, hidden, forms["head"], 3.0)
    norm(t, prefix + "norm", hidden, hybrid, forms["plain"])
    for n in range(c["num_hidden_layers"]):
        at = f"{prefix}layers.{n}."
        norm(t, at + "input_layernorm", hidden, hybrid, forms["plain"])
        norm(t, at + "post_attention_layernorm", hidden, hybrid, forms["plain"])
        if deepseek:
            latent_attention(t, at + "self_attn.", c, forms, kind == "deepseek_v32")
        elif hybrid and c["layer_types"][n] == "linear_attention":
            delta_net(t, at + "linear_attn.", c, forms, grouped)
        else:
            attention(t, at + "self_attn.", c, forms, kind == "qwen2_moe", kind != "qwen2_moe", hybrid)
        if n < c.get("first_k_dense_replace", 0) or n in c.get("mlp_only_layers", []):
            swiglu(t, at + "mlp.", hidden, c["intermediate_size"], forms["linear"])
            continue
        t.matrix(at + "mlp.gate", count, hidden, forms["plain"], 2.8)
        if deepseek:
            t.put(at + "mlp.gate.e_score_correction_bias", t.random(at + "bias", (count,), 0.1), "f32")
        experts(t, at + "mlp.", c, count, forms, fused)
        shared = {"form": "bf16" if forms["experts"] == "int4" else forms["linear"]}
        if deepseek:
            swiglu(t, at + "mlp.shared_experts.", hidden, c["moe_intermediate_size"] * c["n_shared_experts"], **shared)
        elif kind != "qwen3_moe":
            swiglu(t, at + "mlp.shared_expert.", hidden, c["shared_expert_intermediate_size"], **shared)
            t.matrix(at + "mlp.shared_expert_gate", 1, hidden, forms["plain"])
    os.makedirs(folder, exist_ok=True)
    t.write(folder)
    tokenizer(folder, vocab)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    return t.value
