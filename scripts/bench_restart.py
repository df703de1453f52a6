#!/usr/bin/python3
"""How long a job takes to serve again after a fault, with and without --keep-bank.

    scripts/bench_restart.py --model DIR [--ranks 2] [--keep-bank /dev/shm] [--rounds 3] [ktmpi options ...]

By turns: a start that reads all weights, and one that finds the experts of a job whose last rank was killed. Before each
start the model's files are dropped from the page cache. Prints a JSON line for each start, of seconds from mpirun until
/health is 200, and one of the medians.
"""
import argparse
import glob
import json
import os
import signal
import statistics
import time

from served_job import ROOT, Server


def evict(folder):
    for name in glob.glob(os.path.join(folder, "*.safetensors")):
        with open(name, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def last_rank(server):
    with open(f"/proc/{server.process.pid}/task/{server.process.pid}/children", encoding="ascii") as file:
        return int(file.read().split()[-1])


def start(a, kept):
    """Seconds until it serves; then its last rank is killed, so that banks stay where they are kept."""
    evict(a.model)
    begin = time.monotonic()
    with Server(a, [*a.options, *(["--keep-bank", a.keep_bank] if kept else [])]) as server:
        server.wait_until_ready()
        seconds = time.monotonic() - begin
        os.kill(last_rank(server), signal.SIGKILL)
        server.process.wait()
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "ktmpi"))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep-bank", default="/dev/shm")
    a, a.options = parser.parse_known_args()
    before = set(os.listdir(a.keep_bank))
    times = {"cold": [], "warm": []}
    try:
        start(a, kept=True)  # fills the banks
        banks = sum(os.path.getsize(os.path.join(a.keep_bank, name)) for name in set(os.listdir(a.keep_bank)) - before)
        for _ in range(a.rounds):
            for name, kept in (("cold", False), ("warm", True)):
                times[name].append(start(a, kept))
                print(json.dumps({"start": name, "ranks": a.ranks, "seconds": round(times[name][-1], 2)}), flush=True)
    finally:
        for name in set(os.listdir(a.keep_bank)) - before:
            if name.startswith("ktmpi-bank-"):
                os.remove(os.path.join(a.keep_bank, name))
    cold, warm = (statistics.median(times[name]) for name in ("cold", "warm"))
    print(json.dumps({"bank_gb": round(banks / 1e9, 2), "cold_s": round(cold, 2), "warm_s": round(warm, 2),
                      "times_quicker": round(cold / warm, 1)}))


if __name__ == "__main__":
    main()
