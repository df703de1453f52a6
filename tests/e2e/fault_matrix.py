"""Every fault at every moment of a job over three machines: fault_matrix.py --program KTMPI FIXTURE

    [--only FAULT] [--phase PHASE] [--transport mpi|ucx] [--json FILE]

The machines are namespaces (virtual_machines.py), rank 2 is on n3. What is promised, whatever comes when (docs/cluster.md):
every open request has an answer or an error 10 s later, also one that comes after the fault; /health is not 200 after 6 s;
the log names the lost rank, but where mpirun may be first to end the others; the job's exit code asks for another start;
15 s later nothing of it is left. A short silence costs nobody an answer.
"""
import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import virtual_machines
from ktmpi_server import enter_venv, fixture_folder, need_program

enter_venv()
virtual_machines.enter()
from stop_test import LARGE, runs  # noqa: E402
from virtual_machines import Machines, ServerOnMachines  # noqa: E402

VICTIM = "n3"
PEER_TIMEOUT_S = 5
ANSWERED_S, HEALTH_S, GONE_S, END_S = 10, 6, 15, 30
RETRY = (70, 71, 75, 77, 137, 139, 205, 255)  # as scripts/slurm/*.sbatch and `ktmpi up` have them


class Fault:
    """What `strike(cell)` does; `lost`: the rank that the log has to name. `heal` lets a machine go on that was only cut
    off or frozen: what it still has is to end. `holds_mpirun`: it waits until then (not under `ktmpi up`)."""

    def __init__(self, strike, lost=None, heal=None, harmless=False, codes=RETRY, holds_mpirun=False):
        self.strike, self.lost, self.heal = strike, lost, heal
        self.harmless, self.codes, self.holds_mpirun = harmless, codes, holds_mpirun


def to_rank(rank, number):
    return lambda cell: os.kill(cell.ranks[rank], number)


def to_launcher(cell):
    launchers = [pid for pid in cell.machines.processes("n1") if name_of(pid) == "mpirun"]
    os.kill(launchers[0], signal.SIGKILL)


def to_daemon(cell):
    for pid in cell.machines.processes(VICTIM):
        if name_of(pid) == "orted":
            os.kill(pid, signal.SIGKILL)


def blink(cell):
    cell.machines.cut(VICTIM)
    time.sleep(2)
    cell.machines.heal(VICTIM)


def reconnect(cell):
    cell.machines.heal(VICTIM)


def thaw(cell):
    cell.machines.signal(VICTIM, signal.SIGCONT)


FAULTS = {
    "an expert rank is killed": Fault(to_rank(2, signal.SIGKILL), lost=2),
    "an expert rank crashes": Fault(to_rank(2, signal.SIGSEGV), lost=2),
    "an expert rank is frozen": Fault(to_rank(2, signal.SIGSTOP), lost=2, heal=thaw),
    "rank 0 is killed": Fault(to_rank(0, signal.SIGKILL), lost=0),
    "mpirun is killed": Fault(to_launcher, codes=(-signal.SIGKILL, 137)),
    "mpirun's daemon is killed": Fault(to_daemon),
    "a machine crashes": Fault(lambda cell: cell.machines.signal(VICTIM, signal.SIGKILL)),
    "a machine's power is cut": Fault(lambda cell: cell.machines.cut_power(VICTIM), heal=reconnect),
    "a cable is pulled": Fault(lambda cell: cell.machines.cut(VICTIM), heal=reconnect),
    "a machine is frozen": Fault(lambda cell: cell.machines.signal(VICTIM, signal.SIGSTOP), lost=2, heal=thaw,
                                 holds_mpirun=True),
    "a cable is out for 2 s": Fault(blink, heal=reconnect, harmless=True),
}


def name_of(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class Client(threading.Thread):
    """One request; what became of it and when."""

    def __init__(self, address, tokens, prompt=8, stream=True):
        super().__init__(daemon=True)
        self.address, self.end, self.outcome, self.events = address, None, None, 0
        self.body = {"input_ids": [5 + i % 400 for i in range(prompt)], "stream": stream,
                     "sampling_params": {"temperature": 0, "ignore_eos": True, "max_new_tokens": tokens}}
        self.start()

    def run(self):
        self.outcome = self._ask()
        self.end = time.monotonic()

    def _ask(self):
        try:
            connection = http.client.HTTPConnection(self.address, timeout=60)
            connection.request("POST", "/generate", json.dumps(self.body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                return f"error {answer.status}"
            if not self.body["stream"]:
                json.loads(answer.read())
                return "whole"
            last = ""
            while line := answer.readline():
                if line.startswith(b"data: "):
                    self.events += 1
                    last, before = line[6:].decode().strip(), last
            if last != "[DONE]":
                return "closed"  # rank 0 or its machine is gone
            return "error event" if "error" in json.loads(before) else "whole"
        except (ConnectionError, http.client.HTTPException, json.JSONDecodeError):
            return "closed"
        except TimeoutError:
            return "no answer"


def await_(what, within_s, why):
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


class Cell:
    """One fault in one phase of one job."""

    def __init__(self, machines, fault, phase, transport, program, fixture, large):
        self.machines, self.fault, self.phase = machines, fault, phase
        options = ["--comm-interface", "eth0", "--transport", transport, "--peer-timeout-s", PEER_TIMEOUT_S,
                   "--max-total-tokens", 40960, "--disable-radix-cache", "--chunked-prefill-size", 32768,
                   "--step-timeout-s", 60]
        starts = phase == "start"
        if starts:
            options += ["--load-format", "dummy", "--tokenizer-path", fixture]
        self.server = ServerOnMachines(machines, 1, program, large if starts else fixture, options,
                                       {"KTMPI_ISA": "ref"} if phase == "prefill" else {})
        self.clients, self.ranks = [], []

    def run(self):
        self.server.start()
        try:
            if self.phase == "start":
                await_(lambda: self.server.log().count("memory of machine") >= 3, 60, "it does not start to load")
                time.sleep(0.3)
            else:
                self.server.wait_until_ready()
            self.ranks = self.server.ranks()
            self._open_requests()
            return self._judge()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            return {"fault_of": str(error), "log": self.server.log()}
        finally:
            for name in self.machines.names:
                self.machines.signal(name, signal.SIGKILL)
            self.machines.heal(VICTIM)
            self.server.stop()
            for name in self.machines.names:  # of a job that was killed just now
                self.machines.clear_shared_memory(name)

    def _open_requests(self):
        ask = lambda *args, **options: self.clients.append(Client(self.server.address, *args, **options))  # noqa: E731
        tokens = 600 if self.fault.harmless else 30000
        if self.phase == "prefill":
            ask(1, prompt=2000 if self.fault.harmless else 30000, stream=False)
            time.sleep(1)
        if self.phase == "load":
            for i in range(12):
                ask(tokens, prompt=8 + 40 * i, stream=i % 3 > 0)
            await_(lambda: sum(c.events > 2 for c in self.clients) >= 8, 60, "answers do not begin")
        if self.phase in ("decode", "drain"):
            ask(tokens)
            await_(lambda: self.clients[0].events > 2, 60, "the answer does not begin")
        if self.phase == "drain":
            self.server.post("/admin/drain", {})

    def _health(self):
        """When /health is no longer 200."""
        try:
            while self.server.request("GET", "/health", timeout=20)[0] == 200:
                time.sleep(0.05)
        except (OSError, http.client.HTTPException):
            pass  # rank 0 is gone
        self.health_s = time.monotonic() - self.begin

    def _judge(self):
        seen = {}
        self.begin, self.health_s = time.monotonic(), None
        self.fault.strike(self)
        serves = self.phase != "start"
        watch = threading.Thread(target=self._health, daemon=True)
        if serves and not self.fault.harmless:
            watch.start()
        if self.phase in ("idle", "load"):
            time.sleep(1)
            self.clients.append(Client(self.server.address, 4))
        for client in self.clients:
            client.join(60 if self.fault.harmless else ANSWERED_S + 10)
            assert client.end, "a request is still open 20 s after the fault"
        seen["answers"] = sorted({client.outcome for client in self.clients})
        if self.clients:
            seen["answered_s"] = round(max(client.end for client in self.clients) - self.begin, 2)
        if self.fault.harmless:
            return self._judge_unharmed(seen)
        assert not self.clients or seen["answered_s"] <= ANSWERED_S, f"answered after {seen['answered_s']} s"
        assert self.phase in ("idle", "load") or "whole" not in seen["answers"], "an answer is whole without the rank"
        if serves:
            watch.join(20)
            seen["health_s"] = self.health_s and round(self.health_s, 2)
            assert self.health_s and self.health_s <= HEALTH_S, f"/health is 200 for {self.health_s} s"
        if self.fault.holds_mpirun:
            await_(lambda: not any(map(runs, self.ranks[:2])), 20, "ranks that are not frozen stay")
            self.fault.heal(self)
        code = self.server.process.wait(END_S)
        seen["ended_s"], seen["code"] = round(time.monotonic() - self.begin, 2), code
        assert code in self.fault.codes, f"exit code {code}"
        if self.fault.lost is not None:
            named = rf"rank {self.fault.lost} \([^)]*\) (was lost|has said nothing)"
            assert re.search(named, self.server.log()), "the log does not name the lost rank"
        if self.fault.heal:
            self.fault.heal(self)
        await_(lambda: not self._left(), GONE_S, f"{self._left()} have stayed")
        seen["gone_s"] = round(time.monotonic() - self.begin, 2)
        return seen

    def _judge_unharmed(self, seen):
        if self.phase == "start":
            await_(lambda: "ready:" in self.server.log(), 60, "it does not become ready")
            return seen
        assert set(seen["answers"]) <= {"whole"}, f"answers are {seen['answers']}"
        if self.phase == "drain":
            assert self.server.process.wait(20) == 0, f"exit code {self.server.process.returncode}"
        else:
            assert self.server.get("/health")[0] == 200, "/health is not 200"
        return seen

    def _left(self):
        """Processes, and files in shared memory."""
        left = [name_of(pid) for name in self.machines.names for pid in self.machines.processes(name)]
        return left + [file for name in self.machines.names for file in self.machines.shared_memory(name)]


PHASES = ("start", "idle", "prefill", "decode", "load", "drain")


def shown(seen):
    if "fault_of" in seen:
        return "**" + seen["fault_of"] + "**"
    parts = [f"{seen['answered_s']:.1f} s" if "answered_s" in seen else "-"]
    return " / ".join(parts + ([f"{seen['ended_s']:.1f} s", str(seen["code"])] if "code" in seen else ["goes on"]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture", help="a name under fixtures/models, or a folder")
    parser.add_argument("--program", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--phase", default="")
    parser.add_argument("--transport", default="")
    parser.add_argument("--json", help="a file for a line of JSON for each cell")
    a = parser.parse_args()
    program, fixture = need_program(a.program), fixture_folder(a.fixture)
    failures = 0
    with Machines(3) as machines:
        large = os.path.join(machines.folder, "large")
        os.mkdir(large)
        with open(os.path.join(large, "config.json"), "w", encoding="utf-8") as file:
            json.dump(LARGE, file)
        for transport in ("mpi", "ucx"):
            if a.transport not in ("", transport):
                continue
            print(f"\n{transport}: until all were answered / until the job had ended / its exit code\n")
            print("| |", " | ".join(PHASES), "|\n|" + " --- |" * (len(PHASES) + 1), flush=True)
            for name, fault in FAULTS.items():
                if a.only not in name:
                    continue
                print("|", name, end=" |", flush=True)
                for phase in PHASES:
                    if a.phase not in phase:
                        continue
                    seen = Cell(machines, fault, phase, transport, program, fixture, large).run()
                    if a.json:
                        with open(a.json, "a", encoding="utf-8") as file:
                            print(json.dumps({"transport": transport, "fault": name, "phase": phase, **seen}), file=file)
                    failures += "fault_of" in seen
                    print(f" {shown(seen)} |", end="", flush=True)
                print(flush=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
