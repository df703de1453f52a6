"""What `ktmpi plan` says that ranks take is what they then use: memory_test.py --program KTMPI

Jobs of random weights whose expert ranks hold banks of more than 4 GB take the longest prompt that fits, some answers, hot
experts that are exchanged and layerwise prompts; then each such rank's RssAnon + RssShmem is compared with its plan.
"""
import argparse
import json
import os
import random
import subprocess
import tempfile

from ktmpi_server import Server, fixture_folder, need_program, skip
from machines_test import on_machines

TOLERANCE, LEAST_BANK = 0.05, 4e9
CHUNK = 256
NEEDED_GB = 14  # free memory


def available_gb():
    with open("/proc/meminfo", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable")) / 1e6


def make_model(folder, fixture):
    """The fixture's config with layers of 128 experts of 9.4 MB."""
    with open(os.path.join(fixture, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    config.update(hidden_size=2048, num_hidden_layers=4, num_attention_heads=16, num_key_value_heads=4, head_dim=128,
                  num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, max_position_embeddings=16384)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    return config["vocab_size"]


def plan(program, options, world, machines, folder):
    hardware = os.path.join(folder, "machines.yaml")
    with open(hardware, "w", encoding="utf-8") as f:
        f.write(f"nodes: {machines}\nnuma-nodes: 1\ncores: {os.cpu_count()}\nmemory-gb: {available_gb():.0f}\n")
    said = subprocess.run([program, "plan", "--json", "--world", str(world), "--hardware", hardware, *options], check=True,
                          capture_output=True, text=True).stdout
    return json.loads(said)["ranks"]


def used(server):
    """Rank -> bytes of anonymous and shared memory."""
    memory = {}
    for pid in server.ranks():
        with open(f"/proc/{pid}/environ", "rb") as f:
            rank = next(int(v.split(b"=")[1]) for v in f.read().split(b"\0") if v.startswith(b"OMPI_COMM_WORLD_RANK="))
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            memory[rank] = sum(int(line.split()[1]) * 1024 for line in f if line.startswith(("RssAnon", "RssShmem")))
    return memory


def check(program, folder, fixture, vocab, world, more, machines=1):
    options = ["--model", folder, "--tokenizer-path", fixture, "--load-format", "dummy", "--max-total-tokens", "8192",
               "--chunked-prefill-size", str(CHUNK), "--max-running-requests", "4", *more]
    planned = {r["rank"]: r for r in plan(program, options, world, machines, folder)}
    choose = random.Random(3)
    started = on_machines(program, machines, folder) if machines > 1 else program
    with Server(started, folder, world, options[2:], start_s=600) as server:
        for length in (5, CHUNK + 50):
            server.generate({"input_ids": [choose.randrange(2, vocab) for _ in range(length)],
                             "sampling_params": {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}})
        found = used(server)
    assert sorted(found) == sorted(planned), (found, planned)
    compared = 0
    for rank, r in sorted(planned.items()):
        off = r["ram_bytes"] / found[rank] - 1
        print(f"  {world} ranks {' '.join(more)}: rank {rank} ({r['role']}): planned {r['ram_bytes'] / 1e9:.3f} GB, "
              f"used {found[rank] / 1e9:.3f} GB: {100 * off:+.1f} %", flush=True)
        if r["bytes"]["experts"] >= LEAST_BANK:
            compared += 1
            assert abs(off) <= TOLERANCE, "more than 5 % apart"
    assert compared, "no rank has a bank of 4 GB"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    a = parser.parse_args()
    program, fixture = need_program(a.program), fixture_folder("qwen3_moe-bf16")
    if available_gb() < NEEDED_GB:
        skip(f"{available_gb():.1f} GB of memory are free, {NEEDED_GB} needed")
    with tempfile.TemporaryDirectory(prefix="ktmpi_memory_") as folder:
        vocab = make_model(folder, fixture)
        check(program, folder, fixture, vocab, 1, [])
        check(program, folder, fixture, vocab, 2, ["--kt-max-deferred-experts-per-token", "2"])
        check(program, folder, fixture, vocab, 2, ["--kt-gpu-experts-ratio", "0.1", "--kt-enable-dynamic-expert-update",
                                                   "--kt-gpu-prefill-token-threshold", "128!"])
        check(program, folder, fixture, vocab, 3, ["--expert-layout", "expert", "--ep-num-redundant-experts", "100"])
        check(program, folder, fixture, vocab, 3, ["--bank", "replicate", "--sliced-below", "100"], machines=2)


if __name__ == "__main__":
    main()
