"""ktmpi's expert kernels beside kt-kernel's: the same shapes, methods and batch sizes, in turns.

    scripts/bench_peers.py layers [--shapes qwen3-next,...] [--methods FP8,...] [--tokens 1,4,32,256,1024] [--rounds 3]
                           [--memory-gb 4] [--kt-threads 1,2] [--out build/peers-bench]

A round runs ktmpi with all threads, then kt-kernel with one thread and with all, since its own service thread may cost more
than the last worker brings; the better one counts. oneDNN's matmul over the same rows, where it has the precision (BF16), is
the third column; it computes the two products of an expert without activation, routing or adding up. All run with as many
experts as fit --memory-gb.

Prints a JSON line for every cell and round, then the accuracy of the methods that quantise; writes peers.jsonl, peers.md and
peers.png to --out. `vs kt` in the table is kt-kernel's time / ktmpi's: above 1 ktmpi is faster.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys

from .programs import HERE, PEERS, ROOT, environment, lines_of, listed, pyplot, python_of

SHAPES = {  # hidden, inter, experts, top k
    "qwen3-next": (2048, 512, 512, 10),
    "qwen3.5-397b": (4096, 1024, 512, 10),
    "deepseek-v3.2": (7168, 2048, 256, 8),
    "kimi-k2": (7168, 2048, 384, 8),
}
METHODS = ("BF16", "FP8", "RAWINT4", "AMXINT4", "AMXINT8")
PYTHON = python_of("kt-kernel")
WORKER = os.path.join(HERE, "kt_layer.py")
ONEDNN_SOURCE = os.path.join(HERE, "onednn_layer.cpp")
ONEDNN = os.path.join(PEERS, "onednn_layer")


def install():
    # Without what the package says it needs: its extension module does not.
    environment("kt-kernel", lambda pip: pip("install", "--no-deps", *listed("peer-kt-kernel")))
    if not os.path.exists(ONEDNN) or os.path.getmtime(ONEDNN) < os.path.getmtime(ONEDNN_SOURCE):
        subprocess.run(["g++", "-O2", "-std=c++20", "-fopenmp", ONEDNN_SOURCE, "-o", ONEDNN, "-ldnnl"], check=True)


def run_round(a, shape, method, number, out):
    hidden, inter, experts, top_k = SHAPES[shape]
    sizes = ["--hidden", str(hidden), "--inter", str(inter), "--topk", str(top_k), "--tokens", a.tokens, "--seconds",
             str(a.seconds)]
    cell = {"shape": shape, "method": method, "round": number}

    def emit(peer, lines, why):
        for line in lines or [{"failed": why}]:
            out({**line, **cell, "peer": peer})

    ours, why = lines_of([a.program, "bench", "kernels", "--kt-method", method, *sizes, "--experts", str(experts),
                          "--memory-gb", str(a.memory_gb), "--threads", str(a.threads)])
    emit("ktmpi", ours, why)
    if not ours:
        return
    sizes += ["--experts", str(ours[0]["experts_real"])]
    for threads in (int(n) for n in a.kt_threads.split(",")):
        theirs, why = lines_of([PYTHON, WORKER, "time", "--method", method, *sizes, "--threads", str(threads)])
        emit("kt-kernel", theirs, f"{threads} threads: {why}" if why else "")
    if method == "BF16":
        theirs, why = lines_of([ONEDNN, *sizes], OMP_NUM_THREADS=str(a.threads))
        emit("onednn", theirs, why)


def medians(lines):
    """(shape, method, tokens) -> {"ms": {peer: ms}, "fraction": ..}; of kt-kernel the better number of threads."""
    found = {}
    for line in lines:
        if "ms_median" in line:
            key = line["shape"], line["method"], line["tokens"]
            found.setdefault(key, {}).setdefault((line["peer"], line["threads"]), []).append(line)
    cells = {}
    for key, runs in found.items():
        cell = cells[key] = {"ms": {}, "fraction": None}
        for (peer, _), same in runs.items():
            ms = statistics.median(line["ms_median"] for line in same)
            cell["ms"][peer] = min(ms, cell["ms"].get(peer, ms))
            if peer == "ktmpi":
                cell["fraction"] = statistics.median(line["fraction_of_limit"] for line in same)
                cell["experts"] = same[0]["experts_real"]
    return cells


def table(cells, accuracies, failures):
    rows = ["| shape | experts | method | tokens | ktmpi ms | of limit | kt-kernel ms | vs kt | oneDNN ms |",
            "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    ratios = []
    for (shape, method, tokens), cell in cells.items():
        ms = cell["ms"]
        if "ktmpi" not in ms:
            continue
        ratio = ms["kt-kernel"] / ms["ktmpi"] if "kt-kernel" in ms else None
        if ratio:
            ratios.append(ratio)
        show = lambda peer: f"{ms[peer]:.2f}" if peer in ms else "-"
        rows.append(f"| {shape} | {cell['experts']} | {method} | {tokens} | {show('ktmpi')} | {cell['fraction']:.2f} | "
                    f"{show('kt-kernel')} | {f'{ratio:.2f}' if ratio else '-'} | {show('onednn')} |")
    if ratios:
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        rows += ["", f"kt-kernel's time / ktmpi's over {len(ratios)} cells: geometric mean {mean:.2f}, "
                     f"least {min(ratios):.2f}, ktmpi slower in {sum(r < 1 for r in ratios)}."]
    if accuracies:
        rows += ["", "| error against float64 | weights | ktmpi | kt-kernel | ratio |", "| --- | --- | ---: | ---: | ---: |"]
        rows += [f"| {l['method']} | {l['accuracy']} | {l['ktmpi_error']:.5f} | {l['kt_kernel_error']:.5f} | "
                 f"{l['ratio']:.2f} |" for l in accuracies]
    for line in failures:
        rows += ["", f"{line['peer']}, {line.get('shape', '')} {line['method']}: did not run: {line['failed']}"]
    return "\n".join(rows) + "\n"


def draw(cells, path):
    plt = pyplot()
    if plt is None:
        return
    shapes = list(dict.fromkeys(shape for shape, _, _ in cells))
    panels = (("ms", lambda c: c["ms"].get("ktmpi")), ("fraction of limit", lambda c: c["fraction"]),
              ("kt-kernel's time / ktmpi's", lambda c: c["ms"]["kt-kernel"] / c["ms"]["ktmpi"] if len(c["ms"]) > 1 else None))
    figure, axes = plt.subplots(len(shapes), 3, figsize=(14, 3.4 * len(shapes)), squeeze=False)
    for row, shape in zip(axes, shapes):
        for axis, (name, value) in zip(row, panels):
            for method in METHODS:
                points = [(tokens, value(c)) for (s, m, tokens), c in cells.items() if (s, m) == (shape, method) and value(c)]
                if not points:
                    continue
                (line,) = axis.plot(*zip(*points), marker="o", label=method)
                if name == "ms":
                    theirs = [(tokens, c["ms"]["kt-kernel"]) for (s, m, tokens), c in cells.items()
                              if (s, m) == (shape, method) and "kt-kernel" in c["ms"]]
                    if theirs:
                        axis.plot(*zip(*theirs), "--", color=line.get_color())
            axis.set_xscale("log", base=2)
            axis.set_xlabel("tokens")
            axis.set_title(f"{shape}: {name}" + (" (dashed: kt-kernel)" if name == "ms" else ""), fontsize=9)
            if name != "fraction of limit":
                axis.set_yscale("log")
            axis.grid(alpha=0.3)
        row[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shapes", default=",".join(SHAPES))
    p.add_argument("--methods", default=",".join(METHODS))
    p.add_argument("--tokens", default="1,4,32,256,1024")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--kt-threads", help="numbers of threads to try kt-kernel with (1 and all)")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=1.0, help="for each batch size and program")
    p.add_argument("--memory-gb", type=float, default=4.0)
    p.add_argument("--program", default=os.path.join(ROOT, "build", "release", "ktmpi"))
    p.add_argument("--out", default=os.path.join(ROOT, "build", "peers-bench"))
    a = p.parse_args()
    a.kt_threads = a.kt_threads or ",".join(map(str, sorted({1, a.threads})))
    shapes, methods = a.shapes.split(","), a.methods.split(",")
    for name in set(shapes) - set(SHAPES) | set(methods) - set(METHODS):
        p.error(f"{name}: expected shapes of {', '.join(SHAPES)} and methods of {', '.join(METHODS)}")
    install()
    os.makedirs(a.out, exist_ok=True)
    lines = []
    with open(os.path.join(a.out, "peers.jsonl"), "w", encoding="utf-8") as file:

        def out(line):
            lines.append(line)
            for to in (file, sys.stdout):
                print(json.dumps(line), file=to, flush=True)

        for shape in shapes:
            for number in range(a.rounds):
                for method in methods:
                    run_round(a, shape, method, number, out)
        for method in (m for m in methods if m in ("BF16", "AMXINT4", "AMXINT8")):
            for weights in ("gaussian", "outliers"):
                hidden, inter, _, _ = SHAPES[shapes[0]]
                found, why = lines_of([PYTHON, WORKER, "accuracy", "--method", method, "--weights", weights, "--hidden",
                                       str(hidden), "--inter", str(inter), "--program", a.program])
                for line in found or [{"peer": "accuracy", "method": method, "failed": why}]:
                    out(line)
    cells = medians(lines)
    text = table(cells, [l for l in lines if "accuracy" in l], [l for l in lines if "failed" in l])
    with open(os.path.join(a.out, "peers.md"), "w", encoding="utf-8") as file:
        file.write(text)
    draw(cells, os.path.join(a.out, "peers.png"))
    print(text, file=sys.stderr)
