"""Many streams at once, of which half hang up at random: the others get all that they asked for, and all is given back.

    streams_test.py --program KTMPI FIXTURE [--world 3] [--streams 1000] [--tokens 24]
"""
import argparse
import asyncio
import json
import random
import resource
import time

from ktmpi_server import Server, fixture_folder, need_program

LIMIT_S = 300


def request(prompt, tokens):
    body = json.dumps({"input_ids": prompt, "stream": True,
                       "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 0}}).encode()
    return (f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


async def stream(address, prompt, tokens, events, opened):
    """One stream, left after `events` of them if that is not None. Returns the ids of a whole one."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request(prompt, tokens))
        status = await reader.readline()
        assert b" 200 " in status, status
        opened.append(1)
        last, seen = None, 0
        while events is None or seen < events:
            line = await reader.readline()
            assert line, "the stream ended before [DONE]"
            if line == b"data: [DONE]\n":
                return last["output_ids"]
            if line.startswith(b"data: "):
                last, seen = json.loads(line[6:]), seen + 1
        return None
    finally:
        writer.close()


async def all_streams(address, prompts, tokens, leave):
    opened = []
    answers = await asyncio.wait_for(asyncio.gather(
        *(stream(address, p, tokens, e, opened) for p, e in zip(prompts, leave)), return_exceptions=True), LIMIT_S)
    return answers, len(opened)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture", help="a name under fixtures/models, or a folder")
    parser.add_argument("--program", required=True)
    parser.add_argument("--world", type=int, default=3)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=24)
    a = parser.parse_args()
    program = need_program(a.program)
    fixture = fixture_folder(a.fixture)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))

    rng = random.Random(3)
    options = ["--max-running-requests", 128, "--max-queued-requests", a.streams, "--max-total-tokens", 32768]
    with Server(program, fixture, a.world, options) as server:
        vocab = server.get("/get_model_info")[1]["vocab_size"]
        prompts = [[rng.randrange(vocab) for _ in range(rng.choice([3, 20, 70]))] for _ in range(10)]
        alone = [server.generate({"input_ids": p, "sampling_params": {
            "max_new_tokens": a.tokens, "ignore_eos": True, "temperature": 0}})["output_ids"] for p in prompts]
        leave = [rng.randrange(a.tokens) if i % 2 else None for i in range(a.streams)]
        rng.shuffle(leave)

        before = server.resident_bytes()
        start = time.monotonic()
        answers, opened = asyncio.run(
            all_streams(server.address, [prompts[i % 10] for i in range(a.streams)], a.tokens, leave))
        took = time.monotonic() - start
        start = time.monotonic()
        while (load := server.load()) != (0, 0, 0):
            assert time.monotonic() - start < 10, f"running, waiting, KV tokens after 10 s without clients: {load}"
            time.sleep(0.01)
        free = time.monotonic() - start
        after = server.resident_bytes()

        assert free < 1, f"slots and KV cache were free only {free:.2f} s after the last stream"
        failures = [x for x in answers if isinstance(x, BaseException)]
        assert not failures, f"{len(failures)} streams failed, the first by {failures[0]!r}"
        for i, ids in enumerate(answers):
            if leave[i] is None:
                assert ids == alone[i % 10], f"stream {i}: {ids}, alone {alone[i % 10]}"
        aborted = server.metric("ktmpi_requests_aborted_total")
        assert aborted > 0, "nobody hung up before the end"
        assert opened == a.streams, opened
        grown = max(after[p] - before[p] for p in before) / 1e6
        print(f"{a.streams} streams at once, {sum(x is None for x in leave)} complete, {aborted:.0f} aborted, {took:.1f} s; "
              f"slots and KV cache free {free:.2f} s later; largest growth of a rank {grown:.1f} MB")
        assert server.generate({"input_ids": prompts[0], "sampling_params": {"max_new_tokens": 1}})


if __name__ == "__main__":
    main()
