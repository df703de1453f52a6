#!/usr/bin/python3
"""Measures `ktmpi bench scale` and draws what came beside what is ideal and what is predicted.

    scripts/scaling/bench_scaling.py --model DIR [--out FOLDER] [--program KTMPI] [bench scale's options ...]
    scripts/scaling/bench_scaling.py --lines LINES.jsonl [--out FOLDER]

Writes scaling.jsonl, whose first line says machine, commit and command, and scaling.png to --out; with --lines, of an
earlier run, only the picture. Over an allocation: scripts/scaling/scaling.sbatch. Needs the packages of
`scripts/setup plot`.
"""
import argparse
import json
import os
import platform
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{os.cpu_count()} x {name}, {gib:.0f} GiB"


def measure(a):
    """Runs the benchmark, passing its lines on as they come; what was measured, by line."""
    command = [a.program, "bench", "scale", "--model", a.model, "--json", *a.options]
    head = {"machine": machine(), "commit": output_of("git", "rev-parse", "--short", "HEAD"),
            "command": " ".join(["ktmpi", *command[1:]])}
    lines = []
    with open(os.path.join(a.out, "scaling.jsonl"), "w", encoding="utf-8") as file:
        file.write(json.dumps(head) + "\n")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
            for text in job.stdout:
                print(text, end="", flush=True)
                file.write(text)
                file.flush()
                lines.append(json.loads(text))
    if job.returncode:
        sys.exit(job.returncode)
    return lines


def curves(lines):
    """phase -> (scaling, layout, transport, batch of one rank) -> points by ranks."""
    found = {}
    for line in lines:
        if "phase" not in line:
            continue
        grown = line["ranks"] // line["base_ranks"] if line["scaling"] == "weak" else 1
        key = (line["scaling"], line["layout"], line["transport"], line["batch"] // grown)
        found.setdefault(line["phase"], {}).setdefault(key, []).append(line)
    for phase, of_phase in found.items():
        base = min(line["ranks"] for points in of_phase.values() for line in points)
        # One rank has no layout: it begins every curve of its batch.
        first = {key[3]: points[0] for key, points in of_phase.items() if points[0]["ranks"] == base}
        for key in list(of_phase):
            points = sorted(of_phase[key], key=lambda line: line["ranks"])
            if points[0]["ranks"] != base and key[3] in first:
                points.insert(0, first[key[3]])
            of_phase[key] = points
        found[phase] = {key: points for key, points in of_phase.items() if len(points) > 1}
    return found


def predicted_speedup(line):
    """The speedup that the prediction means: the base's tokens per second were measured in the same minutes."""
    return line["speedup"] * line["ms_median"] / line["predicted_ms"]


def draw(lines, out):
    found = curves(lines)
    figure, axes = plt.subplots(1, len(found), figsize=(6.5 * len(found), 4.6), dpi=110, squeeze=False)
    for axis, (phase, of_phase) in zip(axes[0], sorted(found.items())):
        ranks = sorted({line["ranks"] for points in of_phase.values() for line in points})
        axis.plot(ranks, [n / ranks[0] for n in ranks], "k--", linewidth=1, label="ideal")
        for number, (key, points) in enumerate(sorted(of_phase.items())):
            at, color = [line["ranks"] for line in points], f"C{number % 10}"
            scaling, layout, transport, batch = key
            axis.plot(at, [line["speedup"] for line in points], marker="o", color=color,
                      label=f"{layout}, {transport}, batch {batch}" + (" a rank" if scaling == "weak" else ""))
            axis.plot(at, [predicted_speedup(line) for line in points], ":", color=color)
        axis.set(xlabel="ranks", ylabel="speedup in tokens per second", title=f"{phase} (dotted: predicted)")
        axis.set_xticks(ranks)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(os.path.join(out, "scaling.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--model")
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "ktmpi"))
    parser.add_argument("--lines", help="of an earlier run; nothing is measured")
    parser.add_argument("--out", default=".")
    a, a.options = parser.parse_known_args()
    if bool(a.model) == bool(a.lines):
        parser.error("expected one of --model and --lines")
    os.makedirs(a.out, exist_ok=True)
    if a.lines:
        with open(a.lines, encoding="utf-8") as file:
            draw([json.loads(line) for line in file], a.out)
    else:
        draw(measure(a), a.out)


if __name__ == "__main__":
    main()
