#!/usr/bin/python3
"""What hot experts are worth: every placement strategy at every ratio, on one model and one stream of prompts.

    scripts/bench_placement.py [--model DIR] [--out docs] [ktmpi options ...]

Without --model it is a small model of random weights, whose routing follows the tokens. Prompts come from a few topics
(windows of the vocabulary, the seed says which), so some experts are used far more than others. One half of a recorded
run chooses the `frequency` placement; all strategies are then measured on the other half and, as "shifted", on topics
that the recording has not seen. `dynamic` starts as uniform and re-chooses during prefills. Prints JSON Lines, one for
each cell, and writes placement.md and placement.png to --out; with --cells FILE of such lines, of several runs perhaps, it
only does the latter. Needs the packages of `scripts/setup plot`.
"""
import argparse
import json
import os
import random
import tempfile
import textwrap

import matplotlib

from served_job import ROOT, Server

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

STRATEGIES = ("random", "uniform", "front-loading", "frequency", "dynamic")
TOPICS = 4
FIELDS = (("hit_rate", "Choices that fell on a hot expert, of one", "{:.3f}"),
          ("tokens_per_s", "Tokens per second, prompts and answers", "{:.0f}"),
          ("brought_mb", "MB of weights brought to the trunk, to stay or for one step", "{:.0f}"))

# 4 layers of 64 experts, 8 for each token, 201 MB of them.
MODEL = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "torch_dtype": "bfloat16",
         "vocab_size": 2048, "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
         "num_key_value_heads": 2, "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
         "max_position_embeddings": 8192, "num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 256,
         "norm_topk_prob": True, "decoder_sparse_step": 1, "intermediate_size": 512, "tie_word_embeddings": False}


def make_model(folder):
    """A folder that `load-format: dummy` serves: the config, and a tokenizer whose tokens are bytes, then words."""
    os.makedirs(folder)
    chars = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]]  # as byte-level BPE
    vocab = {token: i for i, token in enumerate(chars + [f"w{i}" for i in range(len(chars), MODEL["vocab_size"])])}
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
                 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                 "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    for name, value in (("config.json", MODEL), ("tokenizer.json", tokenizer)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(value, f)
    return folder


def make_prompts(a, vocab, topics, count):
    """Each prompt keeps to one topic: a window of a hundredth of the vocabulary, words near its start more often."""
    chooser = random.Random(f"{a.seed} {list(topics)}")
    prompts = []
    for i in range(count):
        window = random.Random(f"{a.seed} topic {topics[i % len(topics)]}")
        words = [window.randrange(vocab) for _ in range(max(8, vocab // 100))]
        prompts.append([words[int(len(words) * chooser.random() ** 3)] for _ in range(a.input_len)])
    return prompts


def record(a, prompts):
    """Counts of the experts for these prompts, as a file that `frequency` reads."""
    with Server(a, a.options) as server:
        server.call("/start_expert_distribution_record", {})
        server.run(prompts, a.output_len, a.concurrency)
        server.call("/stop_expert_distribution_record", {})
        server.call("/dump_expert_distribution_record", {})
        name = next(n for n in os.listdir(server.folder.name) if n.startswith("expert_distribution_recorder"))
        kept = os.path.join(a.work, "recording.pt")
        os.replace(os.path.join(server.folder.name, name), kept)
        return kept


def options_of(a, strategy, ratio, recording):
    options = [*a.options, "--kt-gpu-experts-ratio", str(ratio)]
    if strategy == "dynamic":
        return [*options, "--kt-enable-dynamic-expert-update", "--kt-gpu-prefill-token-threshold", str(a.threshold)]
    options += ["--kt-expert-placement-strategy", strategy]
    return options + (["--init-expert-location", recording] if strategy == "frequency" else [])


def measure(a, strategy, ratio, recording, workloads):
    with Server(a, options_of(a, strategy, ratio, recording)) as server:
        server.run(workloads["recorded"][:a.concurrency], a.output_len, a.concurrency)  # warm
        for name, prompts in workloads.items():
            before = server.metrics()
            tokens, seconds = server.run(prompts, a.output_len, a.concurrency)
            gone = {k: v - before[k] for k, v in server.metrics().items() if k in before}
            brought = gone["ktmpi_hot_expert_moved_bytes_total"] + gone["ktmpi_layerwise_streamed_bytes_total"]
            yield {"strategy": strategy, "ratio": ratio, "topics": name,
                   "hit_rate": round(gone["ktmpi_hot_expert_pairs_total"] / max(1, gone["ktmpi_expert_pairs_total"]), 4),
                   "brought_mb": round(brought / 1e6, 3),
                   "tokens_per_s": round(tokens / seconds, 1)}


def table(a, cells, topics, field, shown):
    at = {(c["ratio"], c["strategy"]): c[field] for c in cells if c["topics"] == topics}
    rows = [f"| hot experts | {' | '.join(a.strategies)} |", "|---" * (len(a.strategies) + 1) + "|"]
    rows += [f"| {100 * r:.0f} % | " + " | ".join(shown.format(at[r, s]) for s in a.strategies) + " |" for r in a.ratios]
    return "\n".join(rows)


def write_tables(a, cells, topics):
    how = (f"By `scripts/bench_placement.py`: {a.name}, {a.ranks} ranks with a thread each, trunk and experts on the same CPU. "
           f"{a.prompts} prompts of {a.input_len} tokens with answers of {a.output_len}, {a.concurrency} at a time, after a "
           "recording of as many others. Its topics are the \"recorded\" ones; \"shifted\" are others. `dynamic` takes prompt "
           f"steps of {a.threshold} tokens or more layer by layer: their cold experts come to the trunk.")
    text = ["# What hot experts are worth", "", textwrap.fill(how, 118), "",
            "![Hit rate, tokens per second and bytes moved against the share of hot experts](placement.png)"]
    for name in topics:
        for field, title, shown in FIELDS:
            text += [f"\n## {title}: {name} topics\n", table(a, cells, name, field, shown)]
    with open(os.path.join(a.out, "placement.md"), "w", encoding="utf-8") as f:
        f.write("\n".join(text) + "\n")


def plot(a, cells, topics):
    figure, axes = plt.subplots(len(topics), len(FIELDS), figsize=(13, 3.6 * len(topics)), squeeze=False)
    for row, name in zip(axes, topics):
        for axis, (field, title, _) in zip(row, FIELDS):
            for s in a.strategies:
                line = sorted((c["ratio"], c[field]) for c in cells if c["strategy"] == s and c["topics"] == name)
                axis.plot([100 * r for r, _ in line], [v for _, v in line], marker=".", label=s)
            axis.set_title(f"{title.split(',')[0]}: {name} topics", fontsize=9)
            axis.set(xlabel="hot experts, %", ylim=(0, 1.02 if field == "hit_rate" else None))
            axis.grid(alpha=0.3)
        row[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(os.path.join(a.out, "placement.png"), dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "ktmpi"))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--ratios", default="0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--threshold", type=int, default=128, help="prompt tokens of a step that re-choose (dynamic)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cells", help="lines of earlier runs, with the same options, to be drawn")
    parser.add_argument("--out", default=".")
    a, a.options = parser.parse_known_args()
    a.ratios, a.strategies = [float(r) for r in a.ratios.split(",")], a.strategies.split(",")
    os.makedirs(a.out, exist_ok=True)
    a.name = os.path.basename(a.model) if a.model else "a model of random weights with 4 layers of 64 experts"
    if a.cells:
        with open(a.cells, encoding="utf-8") as f:
            return show(a, [json.loads(line) for line in f])
    with tempfile.TemporaryDirectory() as a.work:
        show(a, bench(a))


def show(a, cells):
    a.ratios = sorted({c["ratio"] for c in cells})
    topics = list(dict.fromkeys(c["topics"] for c in cells))
    write_tables(a, cells, topics)
    plot(a, cells, topics)


def bench(a):
    if not a.model:
        a.model = make_model(os.path.join(a.work, "model"))
        a.options += ["--load-format", "dummy", "--max-total-tokens", "4096", "--chunked-prefill-size", "512"]
    with open(os.path.join(a.model, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    vocab = config.get("text_config", config)["vocab_size"]
    prompts = make_prompts(a, vocab, range(TOPICS), 2 * a.prompts)
    workloads = {"recorded": prompts[a.prompts:], "shifted": make_prompts(a, vocab, range(TOPICS, 2 * TOPICS), a.prompts)}
    recording = record(a, prompts[:a.prompts])

    cells = []
    for ratio in a.ratios:
        for strategy in a.strategies:
            for cell in measure(a, strategy, ratio, recording, workloads):
                cells.append(cell)
                print(json.dumps(cell), flush=True)
    return cells


if __name__ == "__main__":
    main()
