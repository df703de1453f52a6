"""How a server ends: by drain, by signals, when a rank hangs and when one is lost. Nobody is left without an answer.

    stop_test.py --program KTMPI FIXTURE [--world 3]
"""
import argparse
import http.client
import json
import os
import re
import signal
import tempfile
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


def await_log(server, text, within_s=10):
    deadline = time.monotonic() + within_s
    while text not in server.log():
        assert time.monotonic() < deadline, f"'{text}' is not in\n{server.log()}"
        time.sleep(0.02)


def runs(pid):
    """Not ended, whether or not its new parent has taken note of that."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_gone(ranks, within_s):
    deadline = time.monotonic() + within_s
    while any(runs(pid) for pid in ranks):
        assert time.monotonic() < deadline, "ranks have stayed"
        time.sleep(0.05)


def is_all_gone(server, within_s):
    """mpirun has left, with the exit code of a killed rank (or that of rank 0, 70), and no rank has stayed."""
    ranks = server.ranks()
    assert server.process.wait(within_s) in (70, 128 + signal.SIGKILL), (server.process.returncode, server.log())
    await_gone(ranks, within_s)


def loses_idle(server, victim, role):
    """A rank is killed while nobody asks: the log names it."""
    os.kill(server.ranks()[victim], signal.SIGKILL)
    await_log(server, f"rank {victim} ({role}, host {os.uname().nodename}) was lost")
    is_all_gone(server, 20)
    assert "with errorcode 70" in server.log(), server.log()  # rank 0's, whatever mpirun makes of it


def freezes_idle(server, victim, role, timeout_s):
    """A rank that says nothing while nobody asks: /health says so first, then the job ends, whoever is frozen."""
    name = f"rank {victim} ({role}, host {os.uname().nodename})"
    ranks = server.ranks()
    os.kill(ranks[victim], signal.SIGSTOP)
    start = time.monotonic()
    while (health := server.get("/health"))[0] == 200:
        assert time.monotonic() - start < timeout_s, health
        time.sleep(0.02)
    assert health[0] == 503 and name in health[1]["status"], health
    await_log(server, f"{name} has said nothing for {timeout_s} s")
    await_log(server, f"{name} was lost: ending the job")
    assert server.process.wait(20) in (70, 128 + signal.SIGKILL), (server.process.returncode, server.log())
    await_gone(ranks, 20)


def loses(server, victim, role, within_s=2.0, host=os.uname().nodename):
    """A rank is killed while answers are written: every dialect's client learns which."""
    stream = Stream(server, 100000)
    whole = {}

    def ask(path, body):
        whole[path] = server.post(path, body)

    bodies = {"/generate": {**LONG, "stream": False},
              "/v1/completions": {"model": "m", "prompt": "abc", "max_tokens": 30000, "ignore_eos": True},
              "/v1/messages": {"model": "m", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 30000,
                               "ignore_eos": True}}
    threads = [threading.Thread(target=ask, args=entry, daemon=True) for entry in bodies.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while server.load()[0] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    start = time.monotonic()
    os.kill(server.ranks()[victim], signal.SIGKILL)
    name = f"rank {victim} ({role}, host {host}) was lost"
    last = stream.finish()[-1]
    assert name in last["error"]["message"] and last["error"]["code"] == "rank_lost", last
    assert stream.end - start < within_s, stream.end - start
    for thread in threads:
        thread.join(10)
    for path in bodies:
        status, answer = whole[path]
        assert status == (529 if path == "/v1/messages" else 503), (path, status, answer)  # Anthropic's own word for it
        assert name in answer["error"]["message"], (path, answer)
    await_log(server, name)
    is_all_gone(server, 20)


def loses_rank_0(server):
    """The others do not stay, and say why."""
    os.kill(server.ranks()[0], signal.SIGKILL)
    is_all_gone(server, 20)
    assert re.search(r"\[r1[^]]*\] rank 0 \(scheduler\+trunk, host ", server.log()), server.log()


def long_step(program, fixture, world, options, timeout_s):
    """A prompt whose one step takes several times as long as step-timeout-s is answered: the ranks tell that they go on,
    whatever rank 0 does itself."""
    options = ["--max-total-tokens", 40960, "--chunked-prefill-size", 32768, "--disable-radix-cache", *options]
    slow = {"KTMPI_ISA": "ref"}

    def seconds(server, tokens):
        body = {"input_ids": [5 + i % 500 for i in range(tokens)],
                "sampling_params": {"temperature": 0, "max_new_tokens": 1, "ignore_eos": True}}
        start = time.monotonic()
        status, answer = server.request("POST", "/generate", body, timeout=600)
        assert status == 200, (status, answer, server.log())
        return time.monotonic() - start

    tokens = 1024
    with Server(program, fixture, world, [*options, "--step-timeout-s", 600], slow) as server:
        while seconds(server, tokens) < 4 * timeout_s and tokens < 32768:
            tokens *= 2
    with Server(program, fixture, world, [*options, "--step-timeout-s", timeout_s], slow) as server:
        taken = seconds(server, tokens)
        assert taken > 1.5 * timeout_s, f"a step of {tokens} tokens took {taken:.1f} s only"
        assert server.get("/health")[0] == 200


LARGE = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048, "vocab_size": 512,
         "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
         "intermediate_size": 2048, "num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
         "norm_topk_prob": True, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "rope_theta": 1e6, "eos_token_id": 1}


def ends_while_loading(program, fixture, world):
    """A signal to one rank ends all of them, although weights of gigabytes are still to come."""
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
            json.dump(LARGE, f)
        server = Server(program, folder, world, ["--load-format", "dummy", "--tokenizer-path", fixture])
        server.start()
        try:
            await_log(server, "memory of machine 0", 60)
            ranks = server.ranks()
            os.kill(ranks[-1], signal.SIGTERM)
            code = server.process.wait(5)
            assert code == 128 + signal.SIGTERM, (code, server.log())
            assert "signal 15 before all was loaded" in server.log(), server.log()
            assert "ready:" not in server.log(), server.log()
            await_gone(ranks, 5)
        finally:
            server.stop()


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

    ends_while_loading(program, fixture, a.world)
    print("passed SIGTERM while loading", flush=True)
    passes("SIGTERM twice", lambda s: ends_at_once(s, lambda: twice(s)), world=0)
    if a.world > 1:
        passes("a rank that is frozen", lambda s: freezes_idle(s, a.world - 1, "expert", 3), options=["--peer-timeout-s", 3])
        passes("a rank that hangs", lambda s: hangs(s, a.world), options=["--step-timeout-s", 3])
        passes("a rank that hangs, rank 0 only schedules", lambda s: hangs(s, 4), world=4,
               options=["--step-timeout-s", 3, "--kt-threadpool-count", 2])
        passes("an idle expert rank that is killed", lambda s: loses_idle(s, 2, "expert"))
        passes("an idle trunk rank that is killed", lambda s: loses_idle(s, 1, "trunk"), world=4,
               options=["--kt-threadpool-count", 2])
        passes("an expert rank that is killed", lambda s: loses(s, 2, "expert"))
        passes("a trunk rank that is killed", lambda s: loses(s, 1, "trunk"), world=4,
               options=["--kt-threadpool-count", 2])
        passes("rank 0 is killed", loses_rank_0)
        long_step(program, fixture, 4, ["--kt-threadpool-count", 2], 2)
        print("passed a long step of which rank 0 computes nothing", flush=True)


if __name__ == "__main__":
    main()
