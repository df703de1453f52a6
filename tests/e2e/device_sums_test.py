"""Trunk ranks whose sums their devices add have the bytes of one rank: device_sums_test.py --program KTMPI FIXTURE

The devices are emulated, and what stands in for NCCL (tests/kernels/fake_nccl.cpp) keeps a log and fails when it is told to.
"""
import argparse
import collections
import os
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

from ktmpi_server import Server, environment, fixture_folder, mpirun, need_program, skip
from layouts import greedy, run_layouts

OPTIONS = ["--device", "cuda-emulated", "--tensor-parallel-size", 2, "--max-total-tokens", 1024]
NCCL = [*OPTIONS, "--trunk-sums", "nccl"]
PROMPTS = {"len1": ([5], 4), "batch0": ([9, 2, 31], 4), "batch1": (list(range(3, 20)), 4)}


def sums_of_ranks(path):
    with open(path, encoding="utf-8") as log:
        return collections.Counter(re.findall(r"^sum \d+ of \d+ by (\d)$", log.read(), re.MULTILINE))


def refused(program, fixture, options, variables):
    """What a start says that ends with 2."""
    ended = subprocess.run(mpirun(2, program, "--model", fixture, "--port", 0, *options), capture_output=True, text=True,
                           timeout=60, env={**environment(), **variables})
    assert ended.returncode == 2, (ended.returncode, ended.stderr)
    return ended.stderr


def fails(program, fixture, variables, options, exit_code, words):
    """Clients of a job whose sums are never done are told, and the job ends."""
    with Server(program, fixture, 2, [*NCCL, *options], variables) as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.post, "/generate", greedy([1, 2, 3], 100))
        found = server.process.wait(60)
        status, answer = asked.result()
        assert found == exit_code and words in server.log(), (found, server.log())
        assert status >= 500, (status, answer)
        print(f"  {variables['FAKE_NCCL']}: {status}, then {found}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture")
    parser.add_argument("--program", required=True)
    a = parser.parse_args()
    program, fixture = need_program(a.program), fixture_folder(a.fixture)
    library = os.path.join(os.path.dirname(program), "tests", "kernels", "libfake_nccl.so")
    if not os.path.exists(library):
        skip(f"{library} is not built")
    here = {"KTMPI_NCCL_LIBRARY": library}

    exact = run_layouts(program, fixture, PROMPTS, [(0, [], {})])
    with tempfile.TemporaryDirectory(prefix="ktmpi_e2e_") as folder:
        for world, options in ((2, NCCL), (3, NCCL), (2, OPTIONS)):
            log = os.path.join(folder, f"{world}_{len(options)}")
            run_layouts(program, fixture, PROMPTS, [(world, options, {**here, "FAKE_NCCL_LOG": log})], exact)
            if options == NCCL:
                sums = sums_of_ranks(log)
                assert sorted(sums) == ["0", "1"] and sums["0"] == sums["1"] > 100, sums
            else:
                assert not os.path.exists(log), "emulated devices ask for NCCL by themselves"

    for variables, words in [({**here, "FAKE_NCCL": "version=21001"}, "is 2.10.1: 2.14 or later is expected"),
                             ({**here, "FAKE_NCCL": "refuse=1"}, "Duplicate GPU detected"),
                             ({"KTMPI_NCCL_LIBRARY": "/nowhere/libnccl.so"}, "/nowhere/libnccl.so: cannot open"),
                             ({"KTMPI_NCCL_LIBRARY": "libm.so.6"}, "libm.so.6 has no ncclGetVersion")]:
        said = refused(program, fixture, NCCL, variables)
        assert words in said and said.count("trunk-sums nccl: ") == 1, said
    assert "device is cpu" in refused(program, fixture, ["--device", "auto", *NCCL[2:]], here)
    fails(program, fixture, {**here, "FAKE_NCCL": "break_after=40"}, [], 70, "peer has closed the connection")
    fails(program, fixture, {**here, "FAKE_NCCL": "hang_after=40"}, ["--step-timeout-s", 3], 71, "step-timeout-s")


if __name__ == "__main__":
    main()
