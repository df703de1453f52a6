#!/usr/bin/env python3
"""What hot experts are worth: every placement strategy at every ratio, on one model and one stream of prompts.

    scripts/bench_placement.py --model DIR [--ranks 3] [--ratios 0,0.1,...] [--out FOLDER] [ktmpi options ...]

Prompts come from a few topics (windows of the vocabulary, the seed says which). One half of a recorded run chooses the
`frequency` placement; all strategies are then measured on the other half and, as "shifted", on topics that the recording
has not seen. `dynamic` starts as uniform and re-chooses during prefills. Prints JSON Lines, one for each cell (strategy,
ratio, topics, hit_rate, moved_mb, streamed_mb, tokens_per_s), and writes placement.jsonl, placement.md and placement.png to
--out.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

STRATEGIES = ("random", "uniform", "front-loading", "frequency", "dynamic")
TOPICS = 4
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Server:
    """A job on `ranks` ranks that is there while the `with` lasts."""

    def __init__(self, a, options):
        self.folder = tempfile.TemporaryDirectory()
        self.url_file = os.path.join(self.folder.name, "url")
        self.log = open(os.path.join(self.folder.name, "log"), "w+", encoding="utf-8")
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(a.ranks), a.program, "--model", a.model,
                   "--port", "0", "--url-file", self.url_file, *options]
        variables = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                     "SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR": self.folder.name, **os.environ}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=variables)

    def __enter__(self):
        while not os.path.exists(self.url_file):
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(self.log.read())
            time.sleep(0.02)
        with open(self.url_file, encoding="utf-8") as f:
            self.url = f.read().strip()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.read().decode()

    def metrics(self):
        lines = (line.split() for line in self.call("/metrics").splitlines() if line and line[0] != "#")
        return {name: float(value) for name, value in lines}

    def run(self, prompts, output_len, concurrency):
        """Sends all prompts; tokens (prompt and answer) and seconds."""
        def one(ids):
            self.call("/generate", {"input_ids": ids, "sampling_params": {"temperature": 0, "max_new_tokens": output_len,
                                                                          "ignore_eos": True}})
        begin = time.monotonic()
        with ThreadPoolExecutor(concurrency) as pool:
            list(pool.map(one, prompts))
        return sum(len(p) + output_len for p in prompts), time.monotonic() - begin


def make_prompts(a, vocab, topics):
    """Each prompt keeps to one topic: a window of a hundredth of the vocabulary, words near its start more often."""
    chooser = random.Random(f"{a.seed} {topics}")
    prompts = []
    for i in range(a.prompts):
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
        kept = os.path.join(a.out, "recording.pt")
        os.replace(os.path.join(server.folder.name, name), kept)
        return kept


def options_of(a, strategy, ratio, recording):
    options = [*a.options, "--kt-gpu-experts-ratio", str(ratio), "--disable-radix-cache"]
    if strategy == "dynamic":
        return [*options, "--kt-enable-dynamic-expert-update", "--kt-gpu-prefill-token-threshold", str(a.threshold)]
    options += ["--kt-expert-placement-strategy", strategy]
    return options + (["--init-expert-location", recording] if strategy == "frequency" else [])


def measure(a, strategy, ratio, recording, workloads):
    with Server(a, options_of(a, strategy, ratio, recording)) as server:
        for name, prompts in workloads.items():
            server.run(prompts[:a.concurrency], a.output_len, a.concurrency)  # warm
            before = server.metrics()
            tokens, seconds = server.run(prompts, a.output_len, a.concurrency)
            gone = {k: v - before[k] for k, v in server.metrics().items() if k in before}
            yield {"strategy": strategy, "ratio": ratio, "topics": name,
                   "hit_rate": round(gone["ktmpi_hot_expert_pairs_total"] / max(1, gone["ktmpi_expert_pairs_total"]), 4),
                   "moved_mb": round(gone["ktmpi_hot_expert_moved_bytes_total"] / 1e6, 3),
                   "streamed_mb": round(gone["ktmpi_layerwise_streamed_bytes_total"] / 1e6, 3),
                   "tokens_per_s": round(tokens / seconds, 1)}


def table(cells, topics, field, shown):
    at = {(c["ratio"], c["strategy"]): c[field] for c in cells if c["topics"] == topics}
    ratios = sorted({r for r, _ in at})
    rows = [f"| hot experts | {' | '.join(STRATEGIES)} |", "|---" * (len(STRATEGIES) + 1) + "|"]
    rows += [f"| {100 * r:.0f} % | " + " | ".join(shown.format(at[r, s]) for s in STRATEGIES) + " |" for r in ratios]
    return "\n".join(rows)


def write_tables(a, cells, topics):
    text = [f"{os.path.basename(a.model)}, {a.ranks} ranks, {a.prompts} prompts of {a.input_len} + {a.output_len} tokens, "
            f"{a.concurrency} at a time."]
    for name in topics:
        text += [f"\n## Hit rate, {name} topics\n", table(cells, name, "hit_rate", "{:.3f}"),
                 f"\n## Tokens per second, {name} topics\n", table(cells, name, "tokens_per_s", "{:.0f}"),
                 f"\n## MB moved to stay hot, {name} topics\n", table(cells, name, "moved_mb", "{:.1f}")]
    with open(os.path.join(a.out, "placement.md"), "w", encoding="utf-8") as f:
        f.write("\n".join(text) + "\n")


def plot(a, cells, topics):
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed (scripts/setup plot)", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(len(topics), 2, figsize=(10, 4 * len(topics)), squeeze=False)
    for row, name in zip(axes, topics):
        for axis, field in zip(row, ("hit_rate", "tokens_per_s")):
            for s in STRATEGIES:
                line = sorted((c["ratio"], c[field]) for c in cells if c["strategy"] == s and c["topics"] == name)
                axis.plot([100 * r for r, _ in line], [v for _, v in line], marker=".", label=s)
            axis.set(title=f"{name} topics", xlabel="hot experts, %", ylabel=field.replace("_", " "))
            axis.grid(alpha=0.3)
        row[0].legend()
    figure.tight_layout()
    figure.savefig(os.path.join(a.out, "placement.png"), dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "ktmpi"))
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--ratios", default="0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--input-len", type=int, default=160)
    parser.add_argument("--output-len", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--threshold", type=int, default=128, help="prompt tokens of a step that re-choose (dynamic)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default=".")
    a, a.options = parser.parse_known_args()
    os.makedirs(a.out, exist_ok=True)
    with open(os.path.join(a.model, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    vocab = config.get("text_config", config)["vocab_size"]

    known, new = list(range(TOPICS)), list(range(TOPICS, 2 * TOPICS))
    all_known = make_prompts(argparse.Namespace(**{**vars(a), "prompts": 2 * a.prompts}), vocab, known)
    workloads = {"recorded": all_known[a.prompts:], "shifted": make_prompts(a, vocab, new)}
    recording = record(a, all_known[:a.prompts])

    cells = []
    with open(os.path.join(a.out, "placement.jsonl"), "w", encoding="utf-8") as file:
        for ratio in map(float, a.ratios.split(",")):
            for strategy in a.strategies.split(","):
                for cell in measure(a, strategy, ratio, recording, workloads):
                    cells.append(cell)
                    print(json.dumps(cell), flush=True)
                    file.write(json.dumps(cell) + "\n")
    if a.strategies == ",".join(STRATEGIES):
        write_tables(a, cells, workloads)
        plot(a, cells, workloads)


if __name__ == "__main__":
    main()
