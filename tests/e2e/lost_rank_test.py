"""A job goes on without expert ranks that are lost: lost_rank_test.py --program KTMPI FIXTURE [--transport mpi|ucx]

Others hold their experts: the answers that are open when a rank is killed, and all after, have the bytes of one rank.
"""
import argparse
import os
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from ktmpi_server import Server, enter_venv, environment, fixture_folder, mpirun, need_program

enter_venv()
from layouts import bytes_of, expect_same, greedy  # noqa: E402
from machines_test import on_machines  # noqa: E402

RECOVERY = {"OMPI_MCA_orte_enable_recovery": "1"}
GO_ON = ["--on-lost-expert-rank", "go-on"]
PROMPTS = {f"prompt {n}": ([(7 * n + 3 * i) % 97 + 3 for i in range(length)], 2500)
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


def wait_until_others_go_on(server, times=1, seconds=20):
    """They have done so that often since the start."""
    deadline = time.monotonic() + seconds
    while server.log().count("go on, ") < times:
        assert time.monotonic() < deadline, f"the others do not go on within {seconds} s"
        time.sleep(0.02)


def goes_on(server, lost, expected, lose):
    """Loses these ranks one after the other: the first in the middle of answers, the next with nothing to do."""
    for i, rank in enumerate(lost):
        with ThreadPoolExecutor(1) as pool:
            if i == 0:
                running = pool.submit(answers, server, PROMPTS)
                time.sleep(0.3)
                assert not running.done(), "the answers had ended before the rank was lost"
            lose(server, rank)
            wait_until_others_go_on(server, i + 1)
            if i == 0:
                for name, answer in running.result().items():
                    expect_same(answer, expected[name], f"{name} while rank {rank} was lost")
        for name, answer in answers(server, PROMPTS).items():
            expect_same(answer, expected[name], f"{name} without rank {rank}")
        assert server.get("/health")[0] == 200
        assert server.metric("ktmpi_lost_ranks") > i


def ends(server):
    """By SIGTERM, as ever; one that was frozen finds the others gone."""
    for pid in server.ranks():
        try:
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    assert server.process.wait(20) == 0, server.process.returncode
    assert "drained: leaving" in server.log() or "signal 15: leaving" in server.log(), server.log()


def refuses(program, fixture, transport):
    """What could not go on does not start."""
    replicate = ["--bank", "replicate"]
    with tempfile.TemporaryDirectory(prefix="ktmpi_e2e_") as folder:
        two = on_machines(program, 2, folder)
        for world, options, variables, why in [
                (3, replicate, {}, "mpirun --enable-recovery"),
                (3, [], RECOVERY, "without rank 1 nobody would hold expert 0 of layer 0"),
                (2, [*replicate, "--tensor-parallel-size", "2"], RECOVERY, "every rank with experts is a trunk rank too"),
                (3, ["--kt-gpu-prefill-token-threshold", "64"], RECOVERY, "leave one of them out")]:
            command = mpirun(world, two, "--model", fixture, "--port", 0, "--transport", transport, *GO_ON, *options)
            ended = subprocess.run(command, env={**environment(), **variables}, capture_output=True, text=True, timeout=60)
            said = ended.stdout + ended.stderr
            # Of ranks that end by themselves, mpirun --enable-recovery does not pass on the exit code.
            assert ended.returncode == (0 if variables else 2) and why in said, (options, ended.returncode, said)


def kill(server, rank, how=signal.SIGKILL):
    os.kill(pid_of(server, rank), how)


def freeze(server, rank):
    kill(server, rank, signal.SIGSTOP)


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
    refuses(program, fixture, a.transport)

    def check(program, world, options, lost, lose=kill):
        with Server(program, fixture, world, [*GO_ON, *ways, *options], RECOVERY) as server:
            goes_on(server, lost, expected, lose)
            ends(server)
        print(f"  {world} ranks {' '.join(options)}, without {lost}: same bytes", flush=True)

    replicate = ["--bank", "replicate"]
    with tempfile.TemporaryDirectory(prefix="ktmpi_e2e_") as folder:
        two, three, in_turn = (on_machines(program, *how) for how in ((2, folder), (3, folder), (2, folder, True)))
        check(two, 3, replicate, [2])
        check(three, 4, [*replicate, "--sliced-below", "100"], [3, 2])
        # Two trunk ranks; who shares its experts with a lost rank leaves with it.
        check(three, 6, [*replicate, "--tensor-parallel-size", "2"], [5])
        check(in_turn, 4, [*replicate, "--kt-threadpool-count", "1"], [3])  # rank 0 schedules only
        check(program, 3, ["--expert-layout", "expert", "--ep-num-redundant-experts", "16"], [1])
        check(two, 3, [*replicate, "--peer-timeout-s", "2"], [2], freeze)
        with Server(two, fixture, 3, [*GO_ON, *ways, *replicate], RECOVERY) as server:
            goes_on(server, [1], expected, kill)
            kill(server, 2)
            server.process.wait(20)
            assert "with errorcode 70" in server.log(), server.log()  # rank 0's: mpirun --enable-recovery leaves with 0
            assert "rank 2 (expert" in server.log() and "the last copy of expert 0 of layer 0" in server.log()


if __name__ == "__main__":
    main()
