"""A job goes on without expert ranks that are lost: lost_rank_test.py --program KTMPI FIXTURE [--transport mpi|ucx]

Others hold their experts: the answers that are open when a rank is killed, and all after, have the bytes of one rank.
"""
import argparse
import os
import signal
import tempfile
import time

from ktmpi_server import Server, enter_venv, fixture_folder, need_program

enter_venv()
from layouts import bytes_of, expect_same, greedy  # noqa: E402
from machines_test import on_machines  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402

RECOVERY = {"OMPI_MCA_orte_enable_recovery": "1"}
GO_ON = ["--on-lost-expert-rank", "go-on"]
PROMPTS = {f"prompt {n}": ([(7 * n + 3 * i) % 97 + 3 for i in range(length)], 4000)
           for n, length in enumerate((5, 70, 33))}


def answers(server, prompts):
    with ThreadPoolExecutor(len(prompts)) as pool:
        return dict(zip(prompts, pool.map(lambda p: bytes_of(server.generate(greedy(*p))), prompts.values())))


def pid_of(server, rank):
    for pid in server.ranks():
        with open(f"/proc/{pid}/environ", "rb") as file:
            if f"OMPI_COMM_WORLD_RANK={rank}".encode() in file.read().split(b"\0"):
                return pid
    raise AssertionError(f"no process of rank {rank}")


def wait_for(said, server, seconds=20):
    deadline = time.monotonic() + seconds
    while said not in server.log():
        assert time.monotonic() < deadline, f"the log does not say '{said}' within {seconds} s"
        time.sleep(0.02)


def goes_on(program, fixture, world, options, lost, expected, how=signal.SIGKILL):
    """Loses these ranks one after the other: the first in the middle of answers, the next with nothing to do."""
    with Server(program, fixture, world, [*GO_ON, *options], RECOVERY) as server:
        for i, rank in enumerate(lost):
            with ThreadPoolExecutor(1) as pool:
                if i == 0:
                    running = pool.submit(answers, server, PROMPTS)
                    time.sleep(0.3)
                    assert not running.done(), "the answers had ended before the rank was lost"
                os.kill(pid_of(server, rank), how)
                wait_for("go on, ", server)
                if i == 0:
                    for name, answer in running.result().items():
                        expect_same(answer, expected[name], f"{name} while rank {rank} was lost")
            for name, answer in answers(server, PROMPTS).items():
                expect_same(answer, expected[name], f"{name} without rank {rank}")
            assert server.get("/health")[0] == 200
        log = server.log()
        mpirun = server.process
        for pid in server.ranks():
            try:
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        assert mpirun.wait(20) is not None
        assert "Sanitizer" not in log
    print(f"  {world} ranks {' '.join(options)}, without {lost}: same bytes", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--transport", default="mpi")
    parser.add_argument("fixture")
    a = parser.parse_args()
    program, fixture = need_program(a.program), fixture_folder(a.fixture)
    with Server(program, fixture, 0) as server:
        expected = answers(server, PROMPTS)
    ways = ["--transport", a.transport]
    replicate = [*ways, "--bank", "replicate"]
    with tempfile.TemporaryDirectory(prefix="ktmpi_e2e_") as folder:
        two, three = (on_machines(program, n, folder) for n in (2, 3))
        in_turn = on_machines(program, 2, folder, in_turn=True)
        goes_on(two, fixture, 3, replicate, [2], expected)
        goes_on(three, fixture, 4, [*replicate, "--sliced-below", "100"], [3, 2], expected)
        # Two trunk ranks; who shares its experts with a lost rank leaves with it.
        goes_on(three, fixture, 6, [*replicate, "--tensor-parallel-size", "2"], [5], expected)
        goes_on(in_turn, fixture, 4, [*replicate, "--kt-threadpool-count", "1"], [3], expected)  # rank 0 schedules only
        goes_on(program, fixture, 3, [*ways, "--expert-layout", "expert", "--ep-num-redundant-experts", "16"], [1],
                expected)
        goes_on(two, fixture, 3, [*replicate, "--peer-timeout-s", "2"], [2], expected, signal.SIGSTOP)


if __name__ == "__main__":
    main()
