#!/usr/bin/python3
"""Draws decode time per token against context from lines of `ktmpi bench step`, and prints the same as a table.

    scripts/plot_context.py OUT.png LINES.jsonl ...

Every file is one round; of a context the fastest round counts, since what else runs on a machine only ever adds time.
Needs the packages of `scripts/setup plot`.
"""
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullLocator  # noqa: E402

NAMES = {True: "sparse attention (indexer)", False: "attention to all keys"}


def mixer_ms(line):
    return sum(p["ms"] for p in line["ranks"][0]["parts"] if p["part"] == "mixer")


def read(paths):
    """Whether with indexer -> context -> the line of the fastest round."""
    best = {True: {}, False: {}}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in map(json.loads, file):
                if line["phase"] != "decode" or line["context_computed"]:
                    continue
                rounds = best[line["indexer"]]
                if line["context"] not in rounds or mixer_ms(line) < mixer_ms(rounds[line["context"]]):
                    rounds[line["context"]] = line
    return best


def draw(best, out):
    figure, axes = plt.subplots(figsize=(7.5, 4.2), dpi=120)
    for indexer, marker in ((False, "s"), (True, "o")):
        contexts = sorted(best[indexer])
        axes.plot(contexts, [mixer_ms(best[indexer][c]) for c in contexts], marker=marker, label=NAMES[indexer])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sorted(best[False] | best[True]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{round(x / 1024)}k"))
    axes.set_ylim(bottom=0)
    layers = next(iter((best[True] | best[False]).values()))["layers"]
    axes.set(xlabel="context, tokens", ylabel=f"attention of a decode step, ms ({layers} layers)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(out)


def table(best):
    print("| context | all keys, ms | sparse, ms | picked rows, MB | index keys, MB |\n|---|---|---|---|---|")
    for context in sorted(best[True]):
        sparse, dense = best[True][context], best[False].get(context)
        print(f"| {context} | {f'{mixer_ms(dense):.1f}' if dense else ''} | {mixer_ms(sparse):.1f} "
              f"| {sparse['picked_rows_mb']:.1f} | {sparse['index_keys_mb']:.1f} |")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    best = read(sys.argv[2:])
    if not best[True]:
        sys.exit("plot_context: no lines of a model with an indexer at given contexts; see ktmpi bench step --context")
    draw(best, sys.argv[1])
    table(best)


if __name__ == "__main__":
    main()
