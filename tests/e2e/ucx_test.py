"""Ranks that speak by UCX answer with the bytes of one rank: ucx_test.py --program KTMPI FIXTURE

On one machine, and on machines that KTMPI_NODE names, between which it is the default where it starts. A start that UCX
refuses and that asked for it ends with 2 and one message; so does every one of a program that was built without it.
"""
import subprocess
import tempfile

from ktmpi_server import Server, enter_venv, environment, mpirun

enter_venv()
from golden_test import program_and_fixture, run_layouts  # noqa: E402
from machines_test import on_machines  # noqa: E402
from stop_test import loses  # noqa: E402

UCX = ["--transport", "ucx"]
TCP = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "lo"}
ANY = {"UCX_TLS": "tcp,self,sm"}


def expect_refusal(program, fixture, words, variables):
    job = subprocess.run(mpirun(2, program, "--model", fixture, "--port", 0, *UCX), stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, env=environment() | variables, timeout=120)
    said = [line for line in job.stderr.splitlines() if line.startswith("ktmpi: ")]
    assert job.returncode == 2 and len(said) == 1, f"ended with {job.returncode}:\n{job.stderr}"
    for word in words:
        assert word in job.stderr, f"{word!r} is not in:\n{job.stderr}"
    print(f"  {variables}: refused")


def goes_by(name):
    def check(server, _):
        assert f"ranks, by {name}\n" in server.log(), server.log()
    return check


def main():
    program, fixture, prompts = program_and_fixture()
    if "no UCX" in subprocess.run([program, "version"], check=True, capture_output=True, text=True).stdout:
        return expect_refusal(program, fixture, ["transport ucx", "built without UCX", "libucx-dev"], {})
    expect_refusal(program, fixture, ["UCX_TLS is nothing", "UCX_NET_DEVICES is not set", "transport mpi"],
                   {"UCX_TLS": "nothing"})

    exact = run_layouts(program, fixture, prompts, [(1, [], {})])
    tp2 = ["--tensor-parallel-size", "2"]
    beside_steps = ["--kt-gpu-experts-ratio", "0.4", "--kt-enable-dynamic-expert-update", "--kt-expert-update-rule",
                    "shuffle", "--kt-gpu-prefill-token-threshold", "100000"]
    run_layouts(program, fixture, prompts, [(1, UCX, ANY), (3, UCX, ANY)], exact)
    with tempfile.TemporaryDirectory(prefix="ktmpi_e2e_") as folder:
        two, three = (on_machines(program, n, folder) for n in (2, 3))
        run_layouts(two, fixture, prompts, [(3, [], TCP), (4, beside_steps, TCP)], exact, then=goes_by("ucx"))
        run_layouts(three, fixture, prompts, [(3, [*UCX, *tp2], TCP)], exact)
        run_layouts(two, fixture, prompts, [(3, [], {"UCX_TLS": "nothing"})], exact, then=goes_by("mpi"))
        # Steps notice it too, but it is the lifeline that names the rank to clients.
        with Server(two, fixture, 3, ["--max-total-tokens", 4096, *UCX], TCP) as server:
            loses(server, 2, "expert")
        print("  an expert rank that is killed: clients are told which")


if __name__ == "__main__":
    main()
