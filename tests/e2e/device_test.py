"""A device's answers have the CPU's bytes, on every layout: what the CPU answers on this machine is what is expected.
What `device: auto` and `cuda` mean here is checked, too.

    device_test.py --program KTMPI [--device cuda] [--jobs 0:1,3:1] MODEL

A job is WORLD:TENSOR_PARALLEL; a WORLD of 0 is one process without mpirun. It takes neither a reference nor numpy; where
the model's folder has no weights they are generated.
"""
import argparse
import json
import os
import random
import re
import shutil
import subprocess

from ktmpi_server import environment, fixture_folder, skip
from layouts import run_layouts

STEPS = 8


def make_prompts(vocab, longest):
    """One of every kind: short, more than a block of keys, a batch, more than one step's tiles."""
    draw = random.Random(1)
    lengths = {"len1": 1, "len70": 70, "batch0": 3, "batch1": 17, "batch2": 65, "long": 300}
    return {name: ([draw.randrange(vocab) for _ in range(n)], STEPS) for name, n in lengths.items() if n <= longest}


def check_choice(program, model, load, prompts, first):
    """`auto` says in one line what it is and why; without GPUs `cuda` is refused before anything is loaded."""
    said = []
    run_layouts(program, model, prompts, [(0, [*load, "--device", "auto"], {})], first,
                lambda server, _: said.extend(re.findall(r"device auto: (cuda|cpu) ?(.*): the trunk", server.log())))
    assert len(said) == 1 and (said[0][0] == "cuda" or said[0][1]), f"device auto: {said}"
    if said[0][0] == "cuda":
        return
    refused = subprocess.run([program, "--model", model, "--device", "cuda"], capture_output=True, text=True, timeout=60,
                             env=environment())
    assert refused.returncode == 2, refused
    assert re.search("built without CUDA|device cuda: machine 0: expected 1 GPU for 1 trunk rank, found", refused.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a name under fixtures/models, or a folder")
    parser.add_argument("--program", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--jobs", default="0:1,3:1")
    parser.add_argument("--longest", type=int, default=300, help="tokens of the longest prompt")
    a = parser.parse_args()
    if not os.access(a.program, os.X_OK):
        skip(f"{a.program} is not built")
    model = fixture_folder(a.model)
    with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    prompts = make_prompts(config.get("text_config", config)["vocab_size"], a.longest)
    jobs = [tuple(map(int, job.split(":"))) for job in a.jobs.split(",")]
    if any(world for world, _ in jobs) and not shutil.which("mpirun"):
        skip("mpirun is not installed")

    has_weights = any(name.endswith(".safetensors") for name in os.listdir(model))
    load = [] if has_weights else ["--load-format", "dummy"]
    first = run_layouts(a.program, model, prompts, [(0, [*load, "--device", "cpu"], {})])
    check_choice(a.program, model, load, prompts, first)
    layouts = [(world, [*load, "--tensor-parallel-size", tp, "--device", a.device], {}) for world, tp in jobs]
    run_layouts(a.program, model, prompts, layouts, first)


if __name__ == "__main__":
    main()
