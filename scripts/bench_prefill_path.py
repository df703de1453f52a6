#!/usr/bin/env python3
"""Whether `kt-gpu-prefill-token-threshold: auto` chooses the faster path: its estimates against both paths' times.

    scripts/bench_prefill_path.py [--set-ups 1:1:1:BF16,...] [--prompts 64,256,...] [--rounds 8] [--quiet-prefix "chrt -f 1"]

A set-up is EXPERT_RANKS:TRUNK_THREADS:EXPERT_THREADS:METHOD (threads of all expert ranks together). Each is one run of
`ktmpi bench step --compare paths` on random weights in the shapes of Qwen3-30B-A3B, cut to 2 layers of 64 experts: rank 0 times
both paths at start, and then each prompt is computed both ways by turns; the fastest round counts, because what else a shared
machine does only adds. Prints JSON Lines: for each set-up and prompt (a cell) both paths' times as predicted and measured, what
was chosen and whether it was right (a choice that loses less than --tie is), for each set-up where the paths cross, and a summary.
"""
import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "torch_dtype": "bfloat16",
         "vocab_size": 8192, "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
         "num_key_value_heads": 4, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
         "max_position_embeddings": 40960, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
         "norm_topk_prob": True, "decoder_sparse_step": 1, "intermediate_size": 6144, "tie_word_embeddings": False}


def run(a, folder, ranks, trunk_threads, expert_threads, method):
    """Prompt -> path -> line of bench step."""
    command = [*shlex.split(a.quiet_prefix), "mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(1 + int(ranks)),
               a.program, "bench", "step", "--model", folder, "--load-format", "dummy", "--layers", "2", "--experts", "64",
               "--kt-gpu-prefill-token-threshold", "auto", "--compare", "paths", "--rounds", str(a.rounds), "--decode", "1",
               "--prompt", a.prompts, "--chunked-prefill-size", str(max(map(int, a.prompts.split(",")))),
               "--trunk-threads", trunk_threads, "--kt-cpuinfer", expert_threads, "--kt-method", method, *a.options]
    variables = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **os.environ}
    answer = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(answer.stderr)
    cells = {}
    for line in map(json.loads, answer.stdout.splitlines()):
        if line["phase"] == "prefill":
            cells.setdefault(line["prompt"], {})[line["path"]] = line
    return cells


def crossover(cells, field):
    """Tokens at which layerwise becomes the faster one for good: on the line between two prompts' differences."""
    points = [(n, paths["hybrid"][field] - paths["layerwise"][field]) for n, paths in sorted(cells.items())]
    crossing = None
    for (n, before), (m, after) in zip(points, points[1:]):
        if before < 0 <= after:
            crossing = n + (m - n) * before / (before - after)
        elif after < 0:
            crossing = None
    return crossing


def judge(set_up, prompt, paths, tie):
    measured = {path: line["ttft_ms_min"] for path, line in paths.items()}
    chosen = paths["hybrid"]["chosen"]
    return {"set_up": set_up, "prompt": prompt,
            "predicted_ms": {path: line["predicted_ms"] for path, line in paths.items()}, "measured_ms": measured,
            "chosen": chosen, "right": measured[chosen] <= (1 + tie) * min(measured.values())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "ktmpi"))
    parser.add_argument("--set-ups", default="1:2:1:BF16,1:2:1:FP8")
    parser.add_argument("--prompts", default="64,128,256,512,768,1024")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tie", type=float, default=0.03, help="two times that differ by less are the same")
    parser.add_argument("--quiet-prefix", default="", help="what mpirun is started with")
    a, a.options = parser.parse_known_args()

    judged, crossings = [], []
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
            json.dump(MODEL, f)
        for set_up in a.set_ups.split(","):
            cells = run(a, folder, *set_up.split(":"))
            for prompt, paths in sorted(cells.items()):
                judged.append(judge(set_up, prompt, paths, a.tie))
                print(json.dumps(judged[-1]), flush=True)
            crossing = {"set_up": set_up, "crossover_predicted": crossover(cells, "predicted_ms"),
                        "crossover_measured": crossover(cells, "ttft_ms_min")}
            crossings.append(crossing)
            print(json.dumps(crossing), flush=True)
    both = [c for c in crossings if c["crossover_predicted"] and c["crossover_measured"]]
    off = [abs(math.log(c["crossover_predicted"] / c["crossover_measured"])) for c in both]
    print(json.dumps({"cells": len(judged), "right": sum(c["right"] for c in judged),
                      "chosen": {path: sum(c["chosen"] == path for c in judged) for path in ("hybrid", "layerwise")},
                      "faster": {path: sum(min(c["measured_ms"], key=c["measured_ms"].get) == path for c in judged)
                                 for path in ("hybrid", "layerwise")},
                      "crossover_off_by": round(math.exp(max(off)) - 1, 3) if off else None}))


if __name__ == "__main__":
    main()
