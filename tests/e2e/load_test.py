"""A server under load answers everyone with what they would get alone, and gives everything back.

    load_test.py --program KTMPI FIXTURE [--world 3] [--requests 200] [--at-once 16]

Requests of mixed lengths, greedy and sampled with a seed; a tenth of the clients hang up while their answer streams.
Afterwards nothing runs and the KV cache is free; a second round must not make the ranks grow.
"""
import argparse
import random
import time
from concurrent.futures import ThreadPoolExecutor

from ktmpi_server import Server, enter_venv, fixture_folder, need_program

DISTINCT = 25
GROWTH_BYTES = 4 << 20  # allowed for a rank in the second round


def make_requests(vocab):
    rng = random.Random(5)
    requests = []
    for i in range(DISTINCT):
        length = rng.choice([1, 3, 17, 63, 64, 65, 128, 200, 400])
        sampling = {"max_new_tokens": rng.choice([1, 4, 16, 48]), "ignore_eos": True}
        sampling |= {"temperature": 0} if i % 2 else {"temperature": 0.8, "top_p": 0.9, "sampling_seed": i}
        requests.append({"input_ids": [rng.randrange(vocab) for _ in range(length)], "sampling_params": sampling})
    return requests


def round_of(server, requests, expected, count, at_once):
    """Sends `count` requests; returns how many were answered rather than left."""
    def one(i):
        which = i % DISTINCT
        if i % 10 == 9:
            body = {**requests[which], "sampling_params": {**requests[which]["sampling_params"], "max_new_tokens": 200}}
            server.hang_up_after(body, events=1 + i % 3)
            return 0
        answer = server.generate(requests[which])
        assert answer["output_ids"] == expected[which], f"request {i}: {answer['output_ids']}, alone {expected[which]}"
        return 1

    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(one, range(count)))


def expect_idle(server):
    deadline = time.monotonic() + 10
    while (load := server.load()) != (0, 0, 0):
        assert time.monotonic() < deadline, f"running, waiting, KV tokens after 10 s without requests: {load}"
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture", help="a name under fixtures/models, or a folder")
    parser.add_argument("--program", required=True)
    parser.add_argument("--world", type=int, default=3)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=16)
    a = parser.parse_args()
    program = need_program(a.program)
    fixture = fixture_folder(a.fixture)
    # Half of the clients wait, and the KV pool does not hold the longest requests of those that run.
    options = ["--max-total-tokens", 1024, "--max-running-requests", 8]

    with Server(program, fixture, a.world, options) as server:
        vocab = server.get("/get_model_info")[1]["vocab_size"]
        requests = make_requests(vocab)
        expected = [server.generate(r)["output_ids"] for r in requests]
        resident = []
        for number in (1, 2):
            start = time.monotonic()
            answered = round_of(server, requests, expected, a.requests, a.at_once)
            expect_idle(server)
            resident.append(server.resident_bytes())
            print(f"  round {number}: {answered} of {a.requests} answered as alone, the others left, "
                  f"{time.monotonic() - start:.1f} s; resident MB: "
                  f"{', '.join(f'{b / 1e6:.1f}' for b in resident[-1].values())}", flush=True)
        counts = {name: server.metric(f"ktmpi_requests_{name}_total") for name in ("aborted", "retracted")}
        print(f"  {counts['aborted']:.0f} aborted, {counts['retracted']:.0f} times retracted")
        assert counts["aborted"] > 0, "nobody hung up before the end of an answer"
        assert answered == a.requests - a.requests // 10, answered
        assert len(resident[0]) == a.world and resident[0].keys() == resident[1].keys(), resident
        for rank, (pid, after) in enumerate(resident[1].items()):
            growth = after - resident[0][pid]
            assert growth <= GROWTH_BYTES, f"process {rank} grew by {growth / 1e6:.1f} MB in the second round"


if __name__ == "__main__":
    enter_venv()
    main()
