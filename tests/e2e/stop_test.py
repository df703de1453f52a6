"""How a server ends: by drain, by signals, and when a rank hangs. Nobody is left without an answer.

    stop_test.py --program KTMPI FIXTURE [--world 3]
"""
import argparse
import http.client
import json
import os
import signal
import threading
import time

from ktmpi_server import Server, fixture_folder, need_program

LONG = {"text": "abc", "stream": True,
        "sampling_params": {"temperature": 0, "ignore_eos": True, "max_new_tokens": 100000}}


class Stream(threading.Thread):
    """An answer that is being read; `events` are its data lines so far, `end` when it ended."""

    def __init__(self, server, tokens):
        super().__init__(daemon=True)
        self.events, self.end = [], None
        body = {**LONG, "sampling_params": {**LONG["sampling_params"], "max_new_tokens": tokens}}
        self.connection = http.client.HTTPConnection(server.address, timeout=60)
        self.connection.request("POST", "/generate", json.dumps(body), {"Content-Type": "application/json"})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        self.start()
        while not self.events:
            time.sleep(0.001)

    def run(self):
        while line := self.answer.readline():
            if line.startswith(b"data: "):
                self.events.append(line[6:].decode().strip())
        self.end = time.monotonic()

    def finish(self):
        """The events before [DONE], as objects."""
        self.join(60)
        assert self.events and self.events[-1] == "[DONE]", self.events[-3:]
        return [json.loads(e) for e in self.events[:-1]]


def is_whole(events, tokens):
    return events[-1]["meta_info"]["completion_tokens"] == tokens and events[-1]["meta_info"]["finish_reason"]


def refuses_new_work(server):
    deadline = time.monotonic() + 5
    while (health := server.get("/health"))[0] == 200:
        assert time.monotonic() < deadline, health
        time.sleep(0.02)
    connection = http.client.HTTPConnection(server.address, timeout=20)
    connection.request("POST", "/generate", json.dumps({"text": "a"}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 503 and answer.getheader("Retry-After"), answer.status
    connection.close()


def drains(server, begin, tokens=600):
    """The open answer goes on to its end, new ones are refused, and the job ends with 0."""
    stream = Stream(server, tokens)
    begin()
    refuses_new_work(server)
    assert stream.is_alive(), "the answer was over before it could be seen to go on"
    assert is_whole(stream.finish(), tokens)
    assert server.process.wait(20) == 0, server.log()


def ends_at_once(server, begin, within_s=2.0):
    """The open answer ends with an error event in time."""
    stream = Stream(server, 100000)
    start = time.monotonic()
    begin()
    last = stream.finish()[-1]
    assert last["error"]["code"] == "shutting_down", last
    assert stream.end - start < within_s, stream.end - start


def hangs(server, world):
    """A rank stops: /health says so before the job gives up with 71, and open answers end with an error."""
    stream = Stream(server, 100000)
    start = time.monotonic()
    frozen = server.ranks()[world - 1]
    os.kill(frozen, signal.SIGSTOP)
    try:
        while (health := server.get("/health"))[0] == 200:
            assert time.monotonic() - start < 3, "/health is well although no step ends"
            time.sleep(0.02)
        assert "no step" in health[1]["status"], health
        last = stream.finish()[-1]
        assert last["error"]["code"] == "engine_hangs", last
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert server.process.wait(20) == 71, server.log()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture", help="a name under fixtures/models, or a folder")
    parser.add_argument("--program", required=True)
    parser.add_argument("--world", type=int, default=3)
    a = parser.parse_args()
    program, fixture = need_program(a.program), fixture_folder(a.fixture)

    def passes(name, check, world=a.world, options=()):
        with Server(program, fixture, world, ["--max-total-tokens", 4096, *options]) as server:
            check(server)
        print("passed", name, flush=True)

    def to_mpirun(server, number):
        return lambda: server.process.send_signal(number)

    passes("SIGUSR1 to mpirun", lambda s: drains(s, to_mpirun(s, signal.SIGUSR1)))
    passes("POST /admin/drain", lambda s: drains(s, lambda: s.post("/admin/drain", {})))
    passes("SIGTERM to mpirun", lambda s: ends_at_once(s, to_mpirun(s, signal.SIGTERM)))
    passes("SIGTERM without mpirun", lambda s: drains(s, to_mpirun(s, signal.SIGTERM)), world=0)

    def twice(server):
        server.process.send_signal(signal.SIGTERM)
        refuses_new_work(server)
        server.process.send_signal(signal.SIGTERM)

    passes("SIGTERM twice", lambda s: ends_at_once(s, lambda: twice(s)), world=0)
    if a.world > 1:
        passes("a rank that hangs", lambda s: hangs(s, a.world), options=["--step-timeout-s", 3])


if __name__ == "__main__":
    main()
