"""Odd shapes of every architecture, in every stored form, are right and the same bytes on every layout.

    shapes_test.py --program KTMPI [--only NAME ...] [--layouts 1x0,1x3,2x1] [--keep DIR]

A layout is TxP: T trunk ranks and P expert ranks; 1x0 is one process. Head dims, widths and numbers of experts are such
that slices, heads and shares end inside blocks of scales, tiles and panels. The first layout is compared with
float_model.py in float64: half of the logprobs must be closer than 1.5 times what rounding alone changes, with bf16 for
what layers hand on, and nine in ten closer than 1.8 times that. All other layouts must give the first one's bytes.
"""
import argparse
import os
import subprocess
import sys
import tempfile

from ktmpi_server import Server, enter_venv, environment, mpirun, need_program

enter_venv()
import numpy as np  # noqa: E402

from float_model import FloatModel  # noqa: E402
from tiny_models import write_model  # noqa: E402

PROMPTS = (2, 35, 70)
TOP = 8
LIMITS = ((0.5, 1.5, 0.01), (0.9, 1.8, 0.03))  # quantile, times what bf16 changes, at least

FP8 = {"linear": "fp8", "experts": "fp8"}
FLOAT32 = dict.fromkeys(("linear", "experts", "embedding", "head", "plain"), "f32")


def blocks(rows=128, columns=128):
    return {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [rows, columns]}}


QWEN2 = {"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "hidden_size": 192, "head_dim": 32,
         "num_attention_heads": 6, "num_key_value_heads": 2, "num_experts": 5, "num_experts_per_tok": 3,
         "moe_intermediate_size": 40, "shared_expert_intermediate_size": 72, "num_hidden_layers": 2, "vocab_size": 301,
         "max_position_embeddings": 512, "norm_topk_prob": False, "rope_theta": 1e4}
QWEN3 = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 200, "head_dim": 96,
         "num_attention_heads": 4, "num_key_value_heads": 1, "num_experts": 7, "num_experts_per_tok": 3,
         "moe_intermediate_size": 72, "intermediate_size": 600, "mlp_only_layers": [0], "num_hidden_layers": 3,
         "vocab_size": 333, "max_position_embeddings": 512, "norm_topk_prob": True, "rope_theta": 1e6}
HYBRID = {"hidden_size": 136, "head_dim": 160, "num_attention_heads": 4, "num_key_value_heads": 2,
          "partial_rotary_factor": 0.25, "rope_theta": 1e4, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
          "linear_key_head_dim": 48, "linear_value_head_dim": 96, "linear_conv_kernel_dim": 3, "num_experts": 9,
          "num_experts_per_tok": 4, "moe_intermediate_size": 520, "shared_expert_intermediate_size": 24,
          "num_hidden_layers": 3, "layer_types": ["linear_attention", "linear_attention", "full_attention"],
          "vocab_size": 290, "max_position_embeddings": 512}
NEXT = HYBRID | {"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next"}
QWEN35 = {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe",
          "text_config": HYBRID | {"model_type": "qwen3_5_moe_text", "moe_intermediate_size": 40}}
DEEPSEEK = {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 264,
            "num_attention_heads": 4, "q_lora_rank": 160, "kv_lora_rank": 96, "qk_nope_head_dim": 96,
            "qk_rope_head_dim": 32, "v_head_dim": 96, "n_routed_experts": 10, "num_experts_per_tok": 3, "n_group": 5,
            "topk_group": 3, "n_shared_experts": 1, "moe_intermediate_size": 176, "first_k_dense_replace": 1,
            "intermediate_size": 336, "num_hidden_layers": 3, "norm_topk_prob": True, "routed_scaling_factor": 1.5,
            "vocab_size": 310, "max_position_embeddings": 512, "rope_theta": 1e4}
YARN = {"beta_fast": 32, "beta_slow": 1, "factor": 8.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 64}
V32 = DEEPSEEK | {"architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32", "index_n_heads": 3,
                  "index_head_dim": 96, "index_topk": 24}
INT4 = {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {
    "group_0": {"weights": {"num_bits": 4, "group_size": 32, "symmetric": True, "type": "int"}}}}}


def saved_by_transformers_5(config, **changes):
    """What transformers 5 makes of a config.json: rope_parameters for all that was said of rope, other names."""
    config = dict(config)
    text = config["text_config"] = dict(config["text_config"]) if "text_config" in config else config
    rope = {"rope_theta": text.pop("rope_theta"), "rope_type": "default"}
    if "rope_scaling" in text:
        rope |= text.pop("rope_scaling")
        rope["rope_type"] = rope.pop("type")
    if "partial_rotary_factor" in text:
        rope["partial_rotary_factor"] = text.pop("partial_rotary_factor")
    text |= {"rope_parameters": rope, "dtype": "float32", "transformers_version": "5.0.0", "pad_token_id": None} | changes
    if text is config:
        del config["text_config"]
    return config


def renamed(config, old, new):
    return {new if k == old else k: v for k, v in config.items()}


# Name -> config, and arguments of write_model.
CASES = {
    "qwen2_moe-bf16": (QWEN2, {}),
    "qwen3_moe-bf16": (QWEN3, {}),
    "qwen3_moe-f16-tied": (QWEN3 | {"tie_word_embeddings": True}, {"forms": {"embedding": "f16", "linear": "f16"}}),
    "qwen3_moe-fp8": (QWEN3 | blocks() | {"moe_intermediate_size": 200}, {"forms": FP8}),
    "qwen3_moe-fp8-other-blocks": (QWEN3 | blocks(48, 160) | {"head_dim": 192}, {"forms": FP8}),
    "qwen3_moe-fp8-fused": (QWEN3 | blocks(16, 64), {"forms": FP8 | {"experts": "bf16"}, "fused": True}),
    "qwen3_next-bf16": (NEXT, {}),
    "qwen3_next-fp8": (NEXT | blocks() | {"head_dim": 192, "linear_value_head_dim": 160, "hidden_size": 264,
                                          "moe_intermediate_size": 136}, {"forms": FP8}),
    "qwen3_5_moe-bf16": (QWEN35, {"prefix": "model.language_model.", "fused": True, "grouped": False}),
    "qwen3_5_moe-embedding-f32": (QWEN35, {"prefix": "model.language_model.", "fused": True, "grouped": False,
                                           "forms": {"embedding": "f32"}}),
    "deepseek_v3-fp8": (DEEPSEEK | blocks() | {"v_head_dim": 160, "rope_scaling": YARN | {"type": "yarn"}}, {"forms": FP8}),
    "deepseek_v3-int4": (DEEPSEEK | INT4 | {"hidden_size": 224, "moe_intermediate_size": 96},
                         {"forms": {"experts": "int4"}}),
    "deepseek_v32-fp8": (V32 | blocks(), {"forms": FP8}),
    "deepseek_v32-fp8-wide": (V32 | blocks() | {"v_head_dim": 192, "moe_intermediate_size": 520}, {"forms": FP8}),
    # As transformers 5 saves them: float32, experts one by one.
    "qwen2_moe-saved": (saved_by_transformers_5(QWEN2, layer_types=["full_attention"] * 2, sliding_window=0),
                        {"forms": FLOAT32}),
    "qwen3_moe-saved": (renamed(saved_by_transformers_5(QWEN3), "num_experts", "num_local_experts"), {"forms": FLOAT32}),
    "qwen3_next-saved": (saved_by_transformers_5(NEXT), {"forms": FLOAT32}),
    "qwen3_5_moe-saved": (saved_by_transformers_5(QWEN35), {"prefix": "model.language_model.", "grouped": False,
                                                            "forms": FLOAT32}),
    "qwen3_5_moe-text-saved": (saved_by_transformers_5(QWEN35["text_config"] | {"architectures": ["Qwen3_5MoeForCausalLM"]}),
                               {"grouped": False, "forms": FLOAT32}),
    "deepseek_v3-saved": (saved_by_transformers_5(DEEPSEEK | {"rope_scaling": YARN | {"type": "yarn"}}, head_dim=32,
                                                  rope_interleave=True), {"forms": FLOAT32}),
    "deepseek_v32-saved": (saved_by_transformers_5(V32, mlp_layer_types=["dense", "sparse", "sparse"], head_dim=32,
                                                   layer_types=["indexed_attention"] * 3), {"forms": FLOAT32}),
}


# Experts converted first: case, method, and how much farther from the float model answers may be, about twice what was
# seen. The formats are off by 9.7 % and 0.6 % (kernels/format/amxint.h), and their inputs are rounded to 8 bits.
CONVERTED = {
    "qwen3_moe-int4": ("qwen3_moe-bf16", "int4", 18),
    "qwen3_moe-int8": ("qwen3_moe-bf16", "int8", 2),
    "qwen3_next-int8": ("qwen3_next-bf16", "int8", 2),
    "deepseek_v32-fp8-int4": ("deepseek_v32-fp8", "int4", 8),
}

# The same of a trunk that is quantised while it is loaded.
QUANTISED = {
    "qwen2_moe-trunk-int8": ("qwen2_moe-bf16", "int8", 3.5),
    "qwen3_moe-fp8-trunk-int8": ("qwen3_moe-fp8", "int8", 3.5),
    "qwen3_next-trunk-int4": ("qwen3_next-bf16", "int4", 35),
    "qwen3_next-trunk-fp8": ("qwen3_next-bf16", "fp8", 8),
    "deepseek_v32-fp8-trunk-int8": ("deepseek_v32-fp8", "int8", 4),
}

# What is refused before anything is loaded, and what is said about it.
REFUSED = {
    "value heads of half a tile": (NEXT | {"linear_value_head_dim": 16}, {},
                                   "linear_value_head_dim: expected a multiple of 32, found 16"),
    "value heads of one and a half": (QWEN35 | {"text_config": QWEN35["text_config"] | {"linear_value_head_dim": 48}}, {},
                                      "linear_value_head_dim: expected a multiple of 32, found 48"),
    "keys that are no vectors": (NEXT | {"linear_key_head_dim": 24}, {},
                                 "linear_key_head_dim: expected a multiple of 16, found 24"),
    "heads of one and a half tiles": (QWEN3 | {"head_dim": 48}, {}, "head_dim: expected a multiple of 32, found 48"),
    "latent values of half a tile": (V32 | {"v_head_dim": 16}, {}, "v_head_dim: expected a multiple of 32, found 16"),
    "INT4 groups that are not whole": (DEEPSEEK | INT4, {}, "hidden_size of INT4 experts: expected a multiple of 32"),
    "an embedding in FP8": (QWEN3, {"forms": {"embedding": "fp8"}},
                            "model.embed_tokens.weight: expected F32, BF16 or F16, found F8_E4M3"),
}


def prompts(vocab):
    random = np.random.Generator(np.random.PCG64(3))
    return [random.integers(0, vocab, n).tolist() for n in PROMPTS]


def ask(server, ids):
    answer = server.generate({"input_ids": ids, "return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": TOP,
                              "sampling_params": {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True}})
    meta = answer["meta_info"]
    keys = ("input_token_logprobs", "input_top_logprobs", "output_token_logprobs", "output_top_logprobs")
    return {"output_ids": answer["output_ids"], **{k: meta[k] for k in keys}}


def logprobs(model, ids):
    logits = model.logits(ids)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def check(config, weights, prefix, answers, tolerance):
    """Every logprob that was told, of prompts and of answers along their own tokens, against the float model."""
    exact, rounded = (FloatModel(config, weights, prefix, bf16) for bf16 in (False, True))
    found_differences, rounding = [], []
    for ids, answer in zip(prompts(exact.c["vocab_size"]), answers):
        all_ids = ids + answer["output_ids"][:-1]
        right, near = logprobs(exact, all_ids), logprobs(rounded, all_ids)
        told = [(i, [one] + top) for i, (one, top) in enumerate(zip(answer["input_token_logprobs"][1:],
                                                                    answer["input_top_logprobs"][1:]))]
        told += [(len(ids) - 1 + i, top) for i, top in enumerate(answer["output_top_logprobs"])]
        for at, entries in told:
            tokens = [token for _, token, *_ in entries]
            found_differences += np.abs(right[at, tokens] - [logprob for logprob, *_ in entries]).tolist()
            rounding += np.abs(right[at, tokens] - near[at, tokens]).tolist()
    said, wrong = [], []
    for quantile, factor, least in LIMITS:
        found, limit = np.quantile(found_differences, quantile), max(factor * np.quantile(rounding, quantile), least)
        limit *= tolerance
        said.append(f"{quantile:.0%}: {found:.4f} (limit {limit:.4f})")
        if not found <= limit:  # NaN is wrong, too
            wrong.append(said[-1])
    return f"{len(found_differences)} logprobs, " + ", ".join(said), wrong


def options(layout):
    trunk, experts = map(int, layout.split("x"))
    if not experts:
        return 1, []
    return trunk + experts, ["--tensor-parallel-size", trunk, "--kt-threadpool-count", experts]


def convert(program, folder, kind, method):
    """Options that serve the folder's experts as `method`."""
    stored = {"fp8": "fp8", "bf16": "bf16"}[kind.split("-")[1]]
    output = f"{folder}-{method}"
    subprocess.run([program, "convert", "--input-path", folder, "--input-type", stored, "--output", output,
                    "--quant-method", method, "--check"], check=True, capture_output=True, env=environment())
    return ["--kt-weight-path", output]


def refuse(program, name, folder):
    config, how, words = REFUSED[name]
    write_model(folder, config, **how)
    job = subprocess.run(mpirun(3, program, "--model", folder, "--port", 0), capture_output=True, text=True,
                         stdin=subprocess.DEVNULL, env=environment(), timeout=120)
    if job.returncode != 64 or words not in job.stderr or "loaded" in job.stderr:
        return f"{name}: ended with {job.returncode}, expected 64 and \"{words}\" before anything is loaded:\n{job.stderr}"
    print(f"{name}: refused", flush=True)
    return None


def run_case(program, name, folder, layouts):
    case, method, tolerance = (CONVERTED | QUANTISED).get(name, (name, None, 1))
    config, how = CASES[case]
    weights = write_model(folder, config, **how)
    quantised = []
    if name in CONVERTED:
        quantised = convert(program, folder, case, method)
    elif method:
        quantised = ["--trunk-method", method]
    first = None
    for layout in layouts:
        world, given = options(layout)
        with Server(program, folder, world, [*given, *quantised, "--context-length", 256]) as server:
            answers = [ask(server, ids) for ids in prompts(config.get("text_config", config)["vocab_size"])]
        if first is None:
            first = answers
            said, wrong = check(config, weights, how.get("prefix", "model."), answers, tolerance)
            print(f"{name}: {said}", flush=True)
            if wrong:
                return f"{name} on {layout}: {', '.join(wrong)}"
        for ids, answer, expected in zip(PROMPTS, answers, first):
            for key, value in expected.items():
                if answer[key] != value:
                    return f"{name} on {layout}: {key} of the prompt of {ids} tokens differs from {layouts[0]}'s"
    print(f"  the same bytes on {', '.join(layouts)}", flush=True)
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--only", nargs="*", default=[*CASES, *CONVERTED, *QUANTISED, *REFUSED])
    parser.add_argument("--layouts", default="1x0,2x3")
    parser.add_argument("--keep", help="folder for the checkpoints")
    a = parser.parse_args()
    program = need_program(a.program)
    failures = []
    with tempfile.TemporaryDirectory(prefix="ktmpi_shapes_") as temporary:
        for name in a.only:
            folder = os.path.join(a.keep or temporary, name)
            try:
                if name in REFUSED:
                    failure = refuse(program, name, folder)
                else:
                    failure = run_case(program, name, folder, a.layouts.split(","))
            except AssertionError as e:
                reasons = [line for line in str(e).splitlines() if line.startswith("ktmpi: ")]
                failure = f"{name}: {' '.join(reasons) or e}"
            if failure:
                failures.append(failure)
                print("FAIL", failure, flush=True)
    if failures:
        sys.exit("\n".join(["", *failures]))


if __name__ == "__main__":
    main()
