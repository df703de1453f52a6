"""A job over three machines: cluster_test.py --program KTMPI FIXTURE

The machines are namespaces with a network each (virtual_machines.py). Over MPI and UCX they answer with the bytes of one
rank; the start's map says which rank is where; a rank that is killed, and a machine whose cable is pulled, are told to
every client by name, and end the job; where others hold its experts, the job goes on.
"""
import signal
import time

import virtual_machines
from ktmpi_server import Server, enter_venv

enter_venv()
virtual_machines.enter()
import lost_rank_test  # noqa: E402
from golden_test import program_and_fixture, run_layouts  # noqa: E402
from layouts import answers_of_job, expect_same  # noqa: E402
from stop_test import Stream, await_gone, loses  # noqa: E402
from virtual_machines import Machines, ServerOnMachines  # noqa: E402

NETWORK = ["--comm-interface", "eth0"]


def answers_alike(machines, program, fixture, prompts):
    exact = run_layouts(program, fixture, prompts, [(0, [], {})])
    two = ["--kt-threadpool-count", 2]
    mpi = ["--transport", "mpi"]
    for each, options in [(1, mpi), (1, []), (2, [*mpi, *two, "--expert-layout", "slice"]), (2, two),
                          (2, [*mpi, *two, "--bank", "replicate"]),
                          (2, [*two, "--bank", "replicate", "--sliced-below", 2])]:
        with ServerOnMachines(machines, each, program, fixture, [*NETWORK, *options]) as server:
            for name, answer in answers_of_job(server, prompts).items():
                expect_same(answer, exact[name], f"{name} with {options}")
            for rank, host in enumerate(host for host in machines.names for _ in range(each)):
                assert any(line.split()[:2] == [str(rank), host] for line in server.log().splitlines()), server.log()
        print(f"  {3 * each} ranks on 3 machines {options}: same bytes", flush=True)


def cable_is_pulled(machines, program, fixture, name):
    """The answer that is being written ends with an error, in time, and so does the job."""
    with ServerOnMachines(machines, 1, program, fixture, [*NETWORK, "--max-total-tokens", 4096]) as server:
        ranks = server.ranks()
        stream = Stream(server, 100000)
        begin = time.monotonic()
        machines.cut(name)
        last = stream.finish()[-1]
        assert stream.end - begin < 10 and last["error"]["code"] == "rank_lost", (stream.end - begin, last)
        assert f"host {name}" in last["error"]["message"], last
        server.process.wait(20)
        assert server.process.returncode in (70, 205, 128 + signal.SIGKILL), (server.process.returncode, server.log())
        await_gone(ranks, 20)
    print(f"  the cable of {name} is pulled: told after {stream.end - begin:.1f} s", flush=True)


def goes_on_without_a_rank(machines, program, fixture):
    """Others hold the experts of the rank that is killed."""
    options = [*NETWORK, *lost_rank_test.GO_ON, "--bank", "replicate", "--max-total-tokens", 16384]
    with Server(program, fixture, 0) as server:
        expected = lost_rank_test.answers(server, lost_rank_test.PROMPTS)
    for transport in ("mpi", "ucx"):
        with ServerOnMachines(machines, 1, program, fixture, [*options, "--transport", transport],
                              lost_rank_test.RECOVERY) as server:
            lost_rank_test.goes_on(server, [2], expected, lost_rank_test.kill)
            lost_rank_test.ends(server)
        print(f"  over {transport} two ranks go on without the third: same bytes", flush=True)


def main():
    program, fixture, prompts = program_and_fixture()
    with Machines(3) as machines:
        answers_alike(machines, program, fixture, prompts)
        with ServerOnMachines(machines, 1, program, fixture, [*NETWORK, "--max-total-tokens", 4096]) as server:
            loses(server, 2, "expert", host="n3", within_s=10)
        print("  a rank is killed: clients are told which, and where", flush=True)
        goes_on_without_a_rank(machines, program, fixture)
        cable_is_pulled(machines, program, fixture, "n3")


if __name__ == "__main__":
    main()
