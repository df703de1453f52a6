"""Greedy answers of a tiny checkpoint agree with its reference, and are the same bytes however the job is laid out.

    golden_test.py --program KTMPI FIXTURE [--jobs 1:1,2:1,3:2] [--chunks 64,128,8192] [--tables ref,avx2]
                   [--devices cuda-emulated] [--device-jobs 1:1,3:2] [--device-prompts len3,len70]
                   [--tensor-prompts len33]

A job is WORLD:TENSOR_PARALLEL. Within every job the batch prompts are also sent all at once and must give the bytes
they give alone. Every kernel table of this machine must give the same bytes, too, and so must other devices: the GPU's
kernels run by the CPU, which answers some prompts only, or a GPU. Products on a GPU's tensor cores have bytes of their
own, which every layout shares. Prompt logprobs are compared as well.
A prompt of several hundred tokens, longer than the reference has, is among those whose bytes are compared.
Dummy weights must be the same on every layout.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

from ktmpi_server import enter_venv, fixture_folder, need_program, skip
from layouts import answers_of_job, expect_same, run_layouts  # noqa: F401 (answers_of_job: for other tests)

enter_venv()
import numpy as np  # noqa: E402


def read_prompts(fixture):
    """Name -> (input ids, number of greedy steps), and the reference tensors."""
    sys.path.insert(0, os.path.dirname(fixture))
    from check_logits import read_safetensors
    reference = read_safetensors(os.path.join(fixture, "reference", "reference.safetensors"))
    names = [key.removesuffix(".input_ids") for key in reference if key.endswith(".input_ids")]
    prompts = {n: (reference[f"{n}.input_ids"].tolist(), len(reference[f"{n}.greedy_ids"])) for n in sorted(names)}
    return prompts, reference


def open_reference(fixture):
    """The fixture's folder and its prompts, where it has a reference; else the test skips."""
    folder = fixture_folder(fixture)
    if not os.path.isdir(os.path.join(folder, "reference")):
        skip(f"{folder} has no reference")
    return folder, *read_prompts(folder)


def program_and_fixture():
    """Of the arguments `--program KTMPI FIXTURE`: the program, the fixture's folder and its prompts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture")
    parser.add_argument("--program", required=True)
    a = parser.parse_args()
    program = need_program(a.program)
    fixture, prompts, _ = open_reference(a.fixture)
    return program, fixture, prompts


def drift(exact, found):
    """How far the logprobs of prompts are from each other in two answers of run_layouts: median, largest."""
    differences = sorted(abs(x - y) for name in exact if name.startswith("prompt of")
                         for (x, *_), (y, *_) in zip(exact[name]["input_token_logprobs"],
                                                     found[name]["input_token_logprobs"]) if x is not None)
    return differences[len(differences) // 2], differences[-1]


def kernel_tables(program):
    said = subprocess.run([program, "version"], check=True, capture_output=True, text=True).stdout
    return re.search(r"^kernels: ([^;]*);", said, re.M)[1].replace(" ", "")


def check_against_reference(fixture, prompts, answers):
    results = {}
    for name, (ids, _) in prompts.items():
        answer = answers[name]
        results[name] = {"input_ids": ids,
                         "top_logprobs": [[i, lp] for lp, i, _ in answer["output_top_logprobs"][0]],
                         "greedy_ids": answer["output_ids"],
                         "greedy_logprobs": [lp for lp, _, _ in answer["output_token_logprobs"]]}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"prompts": results}, file)
        file.flush()
        checker = os.path.join(os.path.dirname(fixture), "check_logits.py")
        subprocess.run([sys.executable, checker, fixture, file.name, "--mode", "bf16"], check=True)


def check_prompt_logprobs(fixture, reference, prompts, answers):
    """The logprob of every prompt token given those before it; the median difference has the checker's bf16 limit."""
    with open(os.path.join(fixture, "reference", "manifest.json"), encoding="utf-8") as f:
        limit = json.load(f)["tolerances"]["bf16"]["all_median_max_abs"]
    differences = []
    for name, (ids, _) in prompts.items():
        found = [lp for lp, _, _ in answers[f"prompt of {name}"]["input_token_logprobs"]]
        assert len(found) == len(ids) and found[0] is None, f"{name}: {len(found)} logprobs of {len(ids)} prompt tokens"
        if f"{name}.logits_all" not in reference:
            continue
        logits = reference[f"{name}.logits_all"].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        differences += [abs(lp - logprobs[i, ids[i + 1]]) for i, lp in enumerate(found[1:])]
    median = float(np.median(differences))
    assert median <= limit, f"prompt logprobs: median difference {median:.4g} > {limit:.4g}"
    print(f"  {len(differences)} prompt logprobs: median difference {median:.4g}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture", help="a name under fixtures/models, or a folder")
    parser.add_argument("--program", required=True)
    parser.add_argument("--jobs", default="1:1,2:1,3:1,5:1,2:2,3:2,5:2")
    parser.add_argument("--chunks", default="64,128,8192")
    parser.add_argument("--tables", help="values of KTMPI_ISA (default: all that run here)")
    parser.add_argument("--devices", default="cuda-emulated", help="values of --device")
    parser.add_argument("--device-jobs", default="1:1,3:2", help="jobs on each of those")
    parser.add_argument("--device-prompts", default="", help="names, or all (default: the shortest, with few answers)")
    parser.add_argument("--tensor-prompts", default="len33", help="names, of products on tensor cores")
    a = parser.parse_args()
    program = need_program(a.program)
    tables = kernel_tables(program) if a.tables is None else a.tables
    fixture, prompts, reference = open_reference(a.fixture)

    jobs = [job.split(":") for job in a.jobs.split(",")]
    layouts = [(int(world), ["--tensor-parallel-size", tp], {}) for world, tp in jobs]
    layouts += [(2, ["--chunked-prefill-size", chunk], {}) for chunk in a.chunks.split(",") if chunk]
    longest = max((ids for ids, _ in prompts.values()), key=len)
    many = prompts | {"long": (longest[::-1] + longest[::2] + longest, 16)}
    first = run_layouts(program, fixture, many, layouts)
    short = {n: p for n, p in prompts.items() if n.startswith("len") and len(p[0]) <= 150}  # "ref" is slow
    run_layouts(program, fixture, short, [(1, [], {"KTMPI_ISA": t}) for t in tables.split(",") if t], first)
    shortest = min(short, key=lambda n: len(short[n][0]))
    names = list(many) if a.device_prompts == "all" else (a.device_prompts or shortest).split(",")
    for device in filter(None, a.devices.split(",")):
        jobs = [job.split(":") for job in a.device_jobs.split(",")]
        layouts = [(int(world), ["--tensor-parallel-size", tp, "--device", device], {}) for world, tp in jobs]
        run_layouts(program, fixture, {n: many[n] for n in names}, layouts, first)
        some = {n: prompts[n] for n in a.tensor_prompts.split(",")}
        tensor = run_layouts(program, fixture, some, [(w, [*o, "--trunk-matmul", "tensor"], v) for w, o, v in layouts])
        check_against_reference(fixture, some, tensor)
        assert any(tensor[n] != first[n] for n in some), "tensor cores and the CPU have the same bytes"
    check_against_reference(fixture, prompts, first)
    check_prompt_logprobs(fixture, reference, prompts, first)
    run_layouts(program, fixture, prompts, [(world, ["--load-format", "dummy"], {}) for world in (1, 3)])


if __name__ == "__main__":
    main()
