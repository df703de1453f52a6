"""The forward passes of every supported architecture in numpy and float64, written from the published equations and not
from the program: token by token where it goes in spans, expanded where it absorbs. With `bf16`, what layers hand on is
rounded as any bf16 implementation rounds it, to see how much that alone changes."""
import numpy as np

from tiny_models import from_bf16, to_bf16


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def unit(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def rotate(x, angles, pairs=False):
    """Halves (i, i + n/2) of x (tokens, heads, n), or pairs (2i, 2i + 1)."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = (x[..., 0::2], x[..., 1::2]) if pairs else np.split(x, 2, -1)
    a, b = a * cos - b * sin, b * cos + a * sin
    return np.stack([a, b], -1).reshape(x.shape) if pairs else np.concatenate([a, b], -1)


def rope_frequencies(n, rope):
    """YaRN (Peng et al., 2023) where the settings say so."""
    plain = rope["theta"] ** (-np.arange(0, n, 2) / n)
    if rope.get("type", "default") == "default":
        return plain
    def turns(count):
        return n * np.log(rope["original"] / (count * 2 * np.pi)) / (2 * np.log(rope["theta"]))
    low, high = max(np.floor(turns(32)), 0), min(np.ceil(turns(1)), n - 1)
    ramp = np.clip((np.arange(n // 2) - low) / max(high - low, 0.001), 0, 1)
    return plain / rope["factor"] * ramp + plain * (1 - ramp)


class FloatModel:
    def __init__(self, config, weights, prefix="model.", bf16=False):
        self.c = c = config.get("text_config", config)
        self.w, self.prefix, self.bf16 = weights, prefix, bf16
        self.kind = c["model_type"].removesuffix("_text")
        self.deepseek = self.kind.startswith(("deepseek", "kimi"))
        self.hybrid = self.kind in ("qwen3_next", "qwen3_5_moe")
        given = c.get("rope_parameters") or c.get("rope_scaling") or {}
        self.rope = {"theta": given.get("rope_theta", c.get("rope_theta", 1e4)), "factor": given.get("factor", 1.0),
                     "type": given.get("rope_type", given.get("type", "default")),
                     "original": given.get("original_max_position_embeddings")}
        share = given.get("partial_rotary_factor", c.get("partial_rotary_factor", 0.25)) if self.hybrid else 1.0
        self.rotated = c["qk_rope_head_dim"] if self.deepseek else int(c["head_dim"] * share)
        self.mscale = 0.1 * given.get("mscale_all_dim", 0) * np.log(self.rope["factor"]) + 1

    def r(self, x):
        return from_bf16(to_bf16(x)) if self.bf16 else x

    def linear(self, name, x):
        y = x @ self.r(self.w[name + ".weight"]).T
        return self.r(y + self.w[name + ".bias"] if name + ".bias" in self.w else y)

    def norm(self, name, x):
        w = self.w[name + ".weight"] + (1 if self.hybrid else 0)
        return self.r(rms(x, w, 1e-6 if "_a_layernorm" in name else self.c.get("rms_norm_eps", 1e-6)))

    def attention(self, at, x, angles):
        c, n, d = self.c, len(x), self.c["head_dim"]
        heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        q = self.linear(at + "q_proj", x).reshape(n, heads, -1)
        q, gate = q[..., :d], q[..., d:]
        k = self.linear(at + "k_proj", x).reshape(n, kv_heads, d)
        v = self.linear(at + "v_proj", x).reshape(n, kv_heads, d)
        if at + "q_norm.weight" in self.w:
            q, k = self.norm(at + "q_norm", q), self.norm(at + "k_norm", k)
        q, k = (self.r(np.concatenate([rotate(y[..., :self.rotated], angles), y[..., self.rotated:]], -1)) for y in (q, k))
        k, v = (np.repeat(y, heads // kv_heads, 1) for y in (k, v))
        scores = np.where(np.tril(np.ones((n, n), bool)), np.einsum("thd,shd->hts", q, k) / np.sqrt(d), -np.inf)
        out = self.r(np.einsum("hts,shd->thd", softmax(scores), v))
        return self.linear(at + "o_proj", self.r(out * sigmoid(gate) if gate.size else out).reshape(n, -1))

    def delta_net(self, at, x):
        c, n = self.c, len(x)
        keys, values = c["linear_num_key_heads"], c["linear_num_value_heads"]
        dk, dv, ratio = c["linear_key_head_dim"], c["linear_value_head_dim"], values // keys
        if at + "in_proj_qkvz.weight" in self.w:  # per key head: q, k, its values, their z; b, a
            groups = self.linear(at + "in_proj_qkvz", x).reshape(n, keys, -1)
            q, k, v, z = np.split(groups, [dk, 2 * dk, 2 * dk + ratio * dv], -1)
            b, a = (y.reshape(n, values) for y in np.split(self.linear(at + "in_proj_ba", x).reshape(n, keys, -1), 2, -1))
            mixed = np.concatenate([y.reshape(n, -1) for y in (q, k, v)], 1)
        else:
            mixed, z = self.linear(at + "in_proj_qkv", x), self.linear(at + "in_proj_z", x)
            b, a = self.linear(at + "in_proj_b", x), self.linear(at + "in_proj_a", x)
        taps = self.w[at + "conv1d.weight"][:, 0]
        padded = np.concatenate([np.zeros((taps.shape[1] - 1, mixed.shape[1])), mixed])
        mixed = self.r(silu(sum(padded[i:i + n] * taps[:, i] for i in range(taps.shape[1]))))
        q, k, v = np.split(mixed, [keys * dk, 2 * keys * dk], 1)
        q = np.repeat(unit(q.reshape(n, keys, dk)) / np.sqrt(dk), ratio, 1)
        k = np.repeat(unit(k.reshape(n, keys, dk)), ratio, 1)
        v, z = v.reshape(n, values, dv), z.reshape(n, values, dv)
        decay = np.exp(-np.exp(self.w[at + "A_log"]) * np.log1p(np.exp(a + self.w[at + "dt_bias"])))
        state, out = np.zeros((values, dk, dv)), np.empty((n, values, dv))
        for t in range(n):
            state *= decay[t][:, None, None]
            change = sigmoid(b[t])[:, None] * (v[t] - np.einsum("hk,hkv->hv", k[t], state))
            state += k[t][:, :, None] * change[:, None]
            out[t] = np.einsum("hk,hkv->hv", q[t], state)
        out = self.r(rms(self.r(out), self.w[at + "norm.weight"], c.get("rms_norm_eps", 1e-6)) * silu(z))
        return self.linear(at + "out_proj", out.reshape(n, -1))

    def latent_attention(self, at, x, angles):
        c, n = self.c, len(x)
        heads, nope, rank, dv = c["num_attention_heads"], c["qk_nope_head_dim"], c["kv_lora_rank"], c["v_head_dim"]
        latent_q = self.norm(at + "q_a_layernorm", self.linear(at + "q_a_proj", x))
        q = self.linear(at + "q_b_proj", latent_q).reshape(n, heads, -1)
        q = np.concatenate([q[..., :nope], self.r(rotate(q[..., nope:], angles, pairs=True))], -1)
        down = self.linear(at + "kv_a_proj_with_mqa", x)
        latent = self.norm(at + "kv_a_layernorm", down[:, :rank])
        shared = np.broadcast_to(self.r(rotate(down[:, None, rank:], angles, pairs=True)), (n, heads, self.rotated))
        up = self.linear(at + "kv_b_proj", latent).reshape(n, heads, nope + dv)
        k, v = np.concatenate([up[..., :nope], shared], -1), up[..., nope:]
        seen = np.tril(np.ones((n, n), bool))
        if self.kind == "deepseek_v32":
            seen &= self.indexed(at + "indexer.", x, latent_q, angles)
        scores = np.einsum("thd,shd->hts", q, k) * self.mscale ** 2 / np.sqrt(q.shape[-1])
        out = np.einsum("hts,shd->thd", softmax(np.where(seen, scores, -np.inf)), v)
        return self.linear(at + "o_proj", self.r(out).reshape(n, -1))

    def indexed(self, at, x, latent_q, angles):
        """Which keys each query keeps; the indexer's heads rotate halves."""
        c, n = self.c, len(x)
        heads, d = c["index_n_heads"], c["index_head_dim"]
        k = self.linear(at + "wk", x)
        k = (k - k.mean(-1, keepdims=True)) / np.sqrt(k.var(-1, keepdims=True) + 1e-6)
        k = (k * self.w[at + "k_norm.weight"] + self.w[at + "k_norm.bias"])[:, None]
        q = self.linear(at + "wq_b", latent_q).reshape(n, heads, d)
        q, k = (self.r(np.concatenate([rotate(y[..., :self.rotated], angles), y[..., self.rotated:]], -1)) for y in (q, k))
        weights = x @ self.w[at + "weights_proj.weight"].T
        score = np.einsum("th,ths->ts", weights, np.maximum(np.einsum("thd,sd->ths", q, k[:, 0]), 0))
        score[~np.tril(np.ones((n, n), bool))] = -np.inf
        kept = np.zeros((n, n), bool)
        np.put_along_axis(kept, np.argsort(-score, -1, kind="stable")[:, :c["index_topk"]], True, -1)
        return kept

    def swiglu(self, at, x):
        return self.linear(at + "down_proj", self.r(silu(self.linear(at + "gate_proj", x)) * self.linear(at + "up_proj", x)))

    def expert(self, at, e, x):
        if at + "gate_up_proj" not in self.w:
            return self.swiglu(f"{at}{e}.", x)
        gate, up = np.split(self.r(x @ self.w[at + "gate_up_proj"][e].T), 2, -1)
        return self.r(self.r(silu(gate) * up) @ self.w[at + "down_proj"][e].T)

    def route(self, at, x):
        c, top = self.c, self.c["num_experts_per_tok"]
        logits = x @ self.w[at + "gate.weight"].T
        scores = sigmoid(logits) if self.deepseek else softmax(logits)
        choice = scores
        if self.deepseek:
            choice = scores + self.w[at + "gate.e_score_correction_bias"]
            groups = choice.reshape(len(x), c.get("n_group", 1), -1)
            best = np.argsort(-np.sort(groups, -1)[..., -2:].sum(-1), -1, kind="stable")[:, :c.get("topk_group", 1)]
            kept = np.zeros(groups.shape, bool)
            np.put_along_axis(kept, best[:, :, None], True, 1)
            choice = np.where(kept, groups, -np.inf).reshape(choice.shape)
        ids = np.argsort(-choice, -1, kind="stable")[:, :top]
        weights = np.take_along_axis(scores, ids, -1)
        if c.get("norm_topk_prob", self.deepseek or self.hybrid):
            weights = weights / weights.sum(-1, keepdims=True)
        return ids, weights * c.get("routed_scaling_factor", 1.0)

    def moe(self, at, x):
        ids, weights = self.route(at, x)
        out = np.zeros_like(x)
        for e in np.unique(ids):
            row, slot = np.nonzero(ids == e)
            out[row] += weights[row, slot][:, None] * self.expert(at + "experts.", e, x[row])
        if self.deepseek:
            out += self.swiglu(at + "shared_experts.", x)
        elif at + "shared_expert_gate.weight" in self.w:
            out += sigmoid(x @ self.w[at + "shared_expert_gate.weight"].T) * self.swiglu(at + "shared_expert.", x)
        return self.r(out)

    def logits(self, ids):
        """(tokens, vocabulary)"""
        embedding = self.w[self.prefix + "embed_tokens.weight"]
        x = self.r(embedding[np.asarray(ids)])
        angles = np.arange(len(ids))[:, None] * rope_frequencies(self.rotated, self.rope)
        for n in range(self.c["num_hidden_layers"]):
            at = f"{self.prefix}layers.{n}."
            y = self.norm(at + "input_layernorm", x)
            if self.deepseek:
                y = self.latent_attention(at + "self_attn.", y, angles)
            elif at + "linear_attn.out_proj.weight" in self.w:
                y = self.delta_net(at + "linear_attn.", y)
            else:
                y = self.attention(at + "self_attn.", y, angles)
            x = self.r(x + y)
            y = self.norm(at + "post_attention_layernorm", x)
            x = self.r(x + (self.moe(at + "mlp.", y) if at + "mlp.gate.weight" in self.w else self.swiglu(at + "mlp.", y)))
        head = self.w.get("lm_head.weight", embedding)
        return self.norm(self.prefix + "norm", x) @ self.r(head).T
