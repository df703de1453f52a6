"""`ktmpi up`: jobs that end by a fault are started again, and meanwhile nobody is turned away from the port.

    up_test.py --program KTMPI FIXTURE
"""
import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import lost_rank_test
from ktmpi_server import Server, environment, fixture_folder, mpirun, need_program
from stop_test import LARGE, Stream, await_gone, await_log, is_whole, runs

ASK = {"text": "abc", "sampling_params": {"temperature": 0, "ignore_eos": True, "max_new_tokens": 24},
       "return_logprob": True}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 4}
OPTIONS = ["--max-total-tokens", 4096, "--drain-timeout-s", 120]


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return [int(child) for child in f.read().split()]
    except FileNotFoundError:
        return []


class Up(Server):
    """A job behind `ktmpi up`; of `world` 0, a server without a launcher."""

    def __init__(self, program, model, world=2, options=(), own=(), variables=None):
        super().__init__(program, model, world, [*OPTIONS, *options], variables)
        self.command = [program, "up", *map(str, own), *self.command]
        self.world = world

    def launcher(self):
        return next(iter(children(self.process.pid)), None)

    def ranks(self):
        launcher = self.launcher() if self.process else None
        return [] if launcher is None else children(launcher) if self.world else [launcher]

    def processes(self):
        return [self.process.pid, self.launcher(), *self.ranks()]


def tokens(server):
    meta = server.generate(ASK)["meta_info"]
    assert len(meta["output_token_logprobs"]) == 24
    return meta["output_token_logprobs"]


def tokens_in(server, seconds):
    """About as many as an answer has after this time, on this machine as it is now."""
    start = time.monotonic()
    tokens(server)
    return min(3000, int(24 * seconds / (time.monotonic() - start)) + 1)


def ask(address, method, path, body=None):
    """Status, headers and body; nothing where the process that had taken the connection has ended meanwhile."""
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.connect()  # has to work always
    try:
        connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())
    except (ConnectionError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def await_service(server, old_rank_0, within_s=60):
    """Asks all the time until the job is back; who finds nobody there is told when to come again."""
    start, refusals = time.monotonic(), 0
    while time.monotonic() < start + within_s:
        alive = runs(old_rank_0)
        chat = ask(server.address, "POST", "/v1/chat/completions", CHAT)
        message = ask(server.address, "POST", "/v1/messages", CHAT)
        health, ready = ask(server.address, "GET", "/health"), ask(server.address, "GET", "/ready")
        assert alive or None not in (chat, message, health, ready), "a connection was closed without an answer"
        if alive:
            time.sleep(0.05)
            continue
        if chat[0] == 200:
            assert refusals > 0, "the job was never away"
            return time.monotonic() - start
        assert chat[0] == 503 and chat[1]["Retry-After"], (chat[0], chat[1].items())
        assert chat[2]["error"]["code"] == "loading", chat
        refusals += 1
        if message[0] != 200:
            assert message[0] == 529 and message[1]["Retry-After"] and message[2]["type"] == "error", message
        time.sleep(0.05)
    raise AssertionError(f"not back after {within_s} s:\n{server.log()}")


def starts_again(server, victim, event=True):
    """What is killed in the middle of an answer is told to its client, and the next job answers as the first one did."""
    before, restarts = tokens(server), server.metric("ktmpi_restarts_total")
    old = server.ranks()
    stream = Stream(server, 100000)
    start = time.monotonic()
    os.kill(victim(), signal.SIGKILL)
    stream.join(10)
    assert stream.end and stream.end - start < 10, "the open answer has no end"
    if event:
        assert "error" in json.loads(stream.events[-2]), stream.events[-2:]
    await_service(server, old[0])
    await_gone(old, 5)
    assert not set(old) & set(server.ranks())
    assert tokens(server) == before
    assert server.metric("ktmpi_restarts_total") == restarts + 1


def faults(server):
    starts_again(server, lambda: server.ranks()[1])
    starts_again(server, lambda: server.ranks()[0], event=False)
    starts_again(server, server.launcher, event=False)


def goes_on_and_starts_again(server):
    """One rank can be missed, its last copy cannot: mpirun's exit code, which is 0 then, is not the job's."""
    before = tokens(server)

    def loses_one():
        lost_rank_test.kill(server, 1)
        deadline = time.monotonic() + 10
        while server.metric("ktmpi_lost_ranks") < 1:
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.02)
        assert tokens(server) == before

    loses_one()
    starts_again(server, lambda: lost_rank_test.pid_of(server, 2))
    loses_one()
    drains(server, signal.SIGTERM)


def streams_while_it_is_computed(server):
    """The first event comes long before the last one, and the log has the client's own address."""
    connection = http.client.HTTPConnection(server.address, timeout=60, source_address=("127.0.0.2", 0))
    body = {**ASK, "stream": True, "sampling_params": {**ASK["sampling_params"], "max_new_tokens": tokens_in(server, 4)}}
    start = time.monotonic()
    connection.request("POST", "/generate", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    times = [time.monotonic() - start for line in iter(answer.readline, b"") if line.startswith(b"data: ")]
    assert len(times) > 5 and times[0] < 0.5 * times[-1], (len(times), times[0], times[-1])
    await_log(server, "from 127.0.0.2")


def drains(server, number):
    count = tokens_in(server, 4)
    stream, processes = Stream(server, count), server.processes()
    server.process.send_signal(number)
    assert is_whole(stream.finish(), count)
    assert server.process.wait(20) == 0, server.log()
    await_gone(processes, 5)


def ends_at_the_second_signal(server):
    stream, processes = Stream(server, 100000), server.processes()
    server.process.send_signal(signal.SIGTERM)
    await_log(server, "draining: ")
    server.process.send_signal(signal.SIGTERM)
    assert stream.finish()[-1]["error"]["code"] == "shutting_down"
    server.process.wait(15)
    await_gone(processes, 5)


def dies_with_its_supervisor(server):
    processes = server.processes()
    server.process.kill()
    await_gone(processes[1:], 10)


def leaves_with_the_jobs_code(server):
    """No restart is allowed."""
    processes = server.processes()
    os.kill(server.ranks()[1], signal.SIGKILL)
    assert server.process.wait(20) in (70, 128 + signal.SIGKILL), server.log()
    await_gone(processes, 5)


def hangs(server):
    """A rank that stops is killed with the others."""
    stream, old = Stream(server, 100000), server.ranks()
    os.kill(old[1], signal.SIGSTOP)
    stream.join(20)
    await_service(server, old[0])
    await_gone(old, 5)


def ends_a_launcher_that_stays(server):
    """As mpirun does where a machine of the job is frozen."""
    old, launcher = server.ranks(), server.launcher()
    os.kill(launcher, signal.SIGSTOP)
    os.kill(old[0], signal.SIGKILL)
    await_log(server, "the launcher has stayed", 30)
    await_service(server, old[0])
    await_gone([launcher, *old], 5)


def keeps_banks(server, folder):
    """A restart reads no experts; a job that ends well leaves none behind."""
    assert server.log().count("not there yet") == 2, server.log()
    kept = sorted(os.listdir(folder))
    assert len(kept) == 2 and all(name.startswith("ktmpi-bank-") for name in kept), kept
    starts_again(server, lambda: server.ranks()[1])
    assert server.log().count("were kept from an earlier start") == 2, server.log()
    assert sorted(os.listdir(folder)) == kept
    drains(server, signal.SIGTERM)
    assert not os.listdir(folder), os.listdir(folder)


def is_json(server):
    os.kill(server.ranks()[1], signal.SIGKILL)
    await_log(server, "starting it again")
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    own = [line["message"] for line in lines if line.get("role") == "up"]
    assert any("restart 1 of at most 10" in message for message in own), own
    assert "[up]" not in server.log(), server.log()


def ends_while_loading(program, fixture):
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
            json.dump(LARGE, f)
        server = Up(program, folder, 2, ["--load-format", "dummy", "--tokenizer-path", fixture])
        server.start()
        try:
            await_log(server, "memory of machine 0", 60)
            processes = server.processes()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(10) == 0, server.log()
            assert "starting it again" not in server.log(), server.log()
            await_gone(processes, 5)
        finally:
            server.stop()


def leaves_between_jobs(program):
    """A job that ends by a signal at once, and a signal while the next start is waited for."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ktmpi")
        with open(path, "w", encoding="ascii") as f:
            f.write("#!/bin/sh\nkill -SEGV $$\n")
        os.chmod(path, 0o755)
        with subprocess.Popen([program, "up", path, "--model", folder, "--port", "0"], stderr=subprocess.PIPE,
                              text=True) as process:
            for line in process.stderr:
                if "restart 3 of at most 10" in line:
                    break
            start = time.monotonic()
            process.terminate()
            assert process.wait(5) == 0
            assert time.monotonic() - start < 2, "it waited for the next start"


def ends_at_once(program, fixture):
    """What another start would not change ends with its own code, and is started once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for code, text, options in ((2, "unknown option --prot", ["--model", fixture, "--prot", 0]),
                                    (2, "valid: ", ["--model", fixture, "--kt-threadpool-count", 7]),
                                    (64, "there is no such folder", ["--model", "/absent"]),
                                    (69, "cannot listen", ["--model", fixture, "--port", port])):
            port_option = [] if "--port" in options else ["--port", 0]
            answer = subprocess.run([program, "up", *mpirun(2, program, *options, *port_option)], env=environment(),
                                    capture_output=True, text=True, timeout=60)
            assert answer.returncode == code and text in answer.stderr, (code, answer.returncode, answer.stderr)
            assert "starting it again" not in answer.stderr, answer.stderr
        within = subprocess.run(mpirun(1, program, "up", program, "--model", fixture), env=environment(),
                                capture_output=True, text=True, timeout=60)
        assert within.returncode == 2 and "a launcher has started it" in within.stderr, within.stderr


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture", help="a name under fixtures/models, or a folder")
    parser.add_argument("--program", required=True)
    parser.add_argument("--only", default="")
    a = parser.parse_args()
    program, fixture = need_program(a.program), fixture_folder(a.fixture)

    def passes(name, check, *args):
        if a.only in name:
            check(*args)
            print("passed", name, flush=True)

    def with_up(name, *checks, **how):
        def check():
            with Up(program, fixture, **how) as server:
                for c in checks:
                    c(server)
        passes(name, check)

    passes("starts that cannot work", ends_at_once, program, fixture)
    passes("SIGTERM between two jobs", leaves_between_jobs, program)
    passes("SIGTERM while loading", ends_while_loading, program, fixture)
    with_up("an answer while it is computed, then SIGUSR1", streams_while_it_is_computed,
            lambda s: drains(s, signal.SIGUSR1))
    with_up("SIGTERM", lambda s: drains(s, signal.SIGTERM))
    with_up("SIGINT without a launcher", lambda s: drains(s, signal.SIGINT), world=0)
    with_up("SIGTERM twice", ends_at_the_second_signal)
    with_up("a rank, rank 0 and mpirun that are killed", faults)
    with_up("a server without a launcher that is killed",
            lambda s: starts_again(s, lambda: s.ranks()[0], event=False), world=0)
    with_up("ranks that can be missed, and one that cannot", goes_on_and_starts_again, world=3,
            options=[*lost_rank_test.GO_ON, "--expert-layout", "expert", "--ep-num-redundant-experts", "16"],
            variables=lost_rank_test.RECOVERY)
    with_up("a rank that hangs", hangs, options=["--step-timeout-s", 3])
    with_up("a launcher that stays", ends_a_launcher_that_stays)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        with_up("banks that are kept", lambda s: keeps_banks(s, folder), world=3,
                options=["--keep-bank", folder])
    with_up("no restart", leaves_with_the_jobs_code, own=["--max-restarts", 0])
    with_up("the supervisor is killed", dies_with_its_supervisor)
    with_up("a log of JSON", is_json, options=["--log-format", "json"])


if __name__ == "__main__":
    sys.exit(main())
