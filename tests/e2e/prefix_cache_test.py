"""Answers that start from the prefix cache are the bytes that they are without it.

    prefix_cache_test.py --program KTMPI FIXTURE [--worlds 1,3]

Identical requests, shared beginnings with different ends, next turns of a talk, many at once, a pool that is too small
for all; each against a server without cache, in every world and after /flush_cache. Ids and logprobs are compared.

Latent attention computes whole blocks of 256 prompt tokens in another form than the rest (docs/deepseek.md). A next
turn that makes a whole block of what the cache knows as a prompt's end and an answer is compared with other servers
that have a cache.
"""
import argparse
import os
import random
from concurrent.futures import ThreadPoolExecutor

from ktmpi_server import Server, fixture_folder, need_program

BLOCK = 64
WHOLE = 256  # tokens of a block of a prompt that latent attention expands
TALK = 200  # tokens of a talker's answer


def greedy(ids, steps):
    return {"input_ids": ids, "return_logprob": True, "top_logprobs_num": 4,
            "sampling_params": {"temperature": 0, "max_new_tokens": steps, "ignore_eos": True}}


def bytes_of(answer):
    meta = answer["meta_info"]
    return answer["output_ids"], meta["output_token_logprobs"], meta["output_top_logprobs"]


def make_prompts(vocab):
    """Name -> ids, in the order in which they are sent."""
    rng = random.Random(11)
    some = lambda n: [rng.randrange(vocab) for _ in range(n)]  # noqa: E731
    beginning = some(200)
    prompts = {"short": some(40), "blocks": some(2 * BLOCK), "long": some(400)}
    prompts |= {f"branch {i}": beginning + some(100 + 50 * i) for i in range(4)}
    return prompts


def make_talkers(vocab):
    """Short prompts with long answers, which together outgrow a small pool."""
    rng = random.Random(12)
    return {f"talker {i}": [rng.randrange(vocab) for _ in range(40)] for i in range(6)}


class Check:
    def __init__(self, server, expected, cache=True, latent=False):
        self.server, self.expected, self.cache, self.latent = server, expected, cache, latent

    def turn(self, name, before, ids):
        """Name of what follows `before`: with a cache another one where its rows are of another form."""
        expands = self.latent and len(ids) // WHOLE > len(before) // WHOLE
        return f"{name}, next turn" + (" on cached rows" if self.cache and expands else "")

    def ask(self, name, ids, steps=24):
        """Sends it, compares it with what is known of it, and returns how many of its tokens were cached."""
        answer = self.server.generate(greedy(ids, steps))
        found = bytes_of(answer)
        known = self.expected.setdefault(name, found)
        for what, a, b in zip(("ids", "logprobs", "top logprobs"), found, known):
            assert a == b, f"{name}: {what}: {a}, expected {b}"
        return answer["meta_info"]["cached_tokens"], found[0]


def sequence(check, prompts):
    """All prompts, each twice and followed by a next turn. Returns the cached tokens of each request."""
    cached = []
    for name, ids in prompts.items():
        first, output = check.ask(name, ids)
        again, _ = check.ask(name, ids)
        following = ids + output + ids[:70]
        turn, _ = check.ask(check.turn(name, ids, following), following)
        cached += [first, again, turn]
    return cached


def check_cached(prompts, cached, recurrent):
    for i, (name, ids) in enumerate(prompts.items()):
        first, again, turn = cached[3 * i:3 * i + 3]
        usable = (len(ids) - 1) // BLOCK * BLOCK
        assert again == usable, f"{name}: {again} of {usable} usable tokens were cached"
        assert turn >= usable, f"{name}, next turn: {turn} cached tokens, at least {usable} are known"
        # A state where paths part is saved by the second that comes along.
        shared = 3 * BLOCK if name.startswith("branch") and int(name[-1]) > recurrent else 0
        assert first == shared, f"{name}: {first} cached tokens at first, expected {shared}"


def at_once(check, prompts, *steps):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: check.ask(*item, *steps), list(prompts.items()) * 3))


def flush(server):
    status, text = server.post("/flush_cache", {})
    assert status == 200, (status, text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture", help="a name under fixtures/models, or a folder")
    parser.add_argument("--program", required=True)
    parser.add_argument("--worlds", default="1,3")
    a = parser.parse_args()
    program = need_program(a.program)
    fixture = fixture_folder(a.fixture)
    recurrent = "next" in os.path.basename(fixture) or "qwen3_5" in os.path.basename(fixture)
    latent = "kimi" in os.path.basename(fixture)  # DeepSeek's has 16 such rows, which no turn adds to

    expected = {}
    with Server(program, fixture, 1, ["--disable-radix-cache"]) as server:
        vocab = server.get("/get_model_info")[1]["vocab_size"]
        prompts, talkers = make_prompts(vocab), make_talkers(vocab)
        check = Check(server, expected, cache=False)
        cached = sequence(check, prompts)
        for talker in talkers.items():
            check.ask(*talker, TALK)
        assert not any(cached), f"tokens cached by a server without cache: {cached}"
    print(f"  without cache: {len(expected)} answers", flush=True)

    small = ["--max-total-tokens", 768, "--max-running-requests", 6, "--chunked-prefill-size", 64]
    stall = ["--max-decode-stall-ms", 1, "--enable-mixed-chunk"]
    for world in map(int, a.worlds.split(",")):
        with Server(program, fixture, world) as server:
            check = Check(server, expected, latent=latent)
            first = sequence(check, prompts)
            check_cached(prompts, first, recurrent)
            flush(server)
            assert sequence(check, prompts) == first, "after /flush_cache other tokens are cached than at first"
            at_once(check, prompts)
            flush(server)
            at_once(check, prompts)
        for options in (small, small + stall):
            with Server(program, fixture, world, options) as server:
                check = Check(server, expected)
                at_once(check, prompts)
                at_once(check, talkers, TALK)
                retracted = server.metric("ktmpi_requests_retracted_total")
            assert retracted > 0, "the small pool was large enough"
            print(f"  {world} ranks, {' '.join(map(str, options))}: same bytes, {retracted:.0f} retractions", flush=True)
        print(f"  {world} ranks: same bytes with {sum(first)} tokens from the cache", flush=True)


if __name__ == "__main__":
    main()
