#!/usr/bin/python3
"""What a long prompt costs those whose answers are being written: the time between two tokens of theirs meanwhile.

    scripts/bench_stall.py --model DIR [--prompt 4096] [--running 4] [--stall-ms 200] [--rounds 3] [--out FOLDER]
                           [ktmpi options ...]

Four settings: prompts and answers in steps of their own or mixed (--enable-mixed-chunk), each without a bound on how
long prompts may hold up answers and with one (--max-decode-stall-ms). In each round --running answers are written, then
the prompt comes. Prints JSON Lines, one for each setting: the prompt's time to its first token, and of the gaps between
tokens the median before, and the median, 99th percentile and longest meanwhile (ms). Writes them to stall.jsonl and
every gap to stall.png in --out. Needs the packages of `scripts/setup plot`.
"""
import argparse
import http.client
import json
import os
import random
import statistics
import sys
import threading
import time

import matplotlib

from served_job import ROOT, Server

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

WARM_TOKENS = 48  # of each answer before the prompt comes, and after it
MOST_TOKENS = 4096  # of an answer, with its own prompt of 32


class Stream:
    """An answer that goes on, read on a thread of its own: `times` has when each of its tokens came."""

    def __init__(self, url, ids):
        self.times, self.closing = [], False
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=600)
        body = {"input_ids": ids, "stream": True,
                "sampling_params": {"temperature": 0, "max_new_tokens": MOST_TOKENS - 32, "ignore_eos": True}}
        self.connection.request("POST", "/generate", json.dumps(body), {"Content-Type": "application/json"})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        while not self.closing and (line := self.answer.readline()):
            if line.startswith(b"data: {"):
                now, made = time.monotonic(), json.loads(line[6:])["meta_info"]["completion_tokens"]
                self.times += [now] * (made - len(self.times))

    def wait_for(self, tokens):
        while len(self.times) < tokens:
            assert self.thread.is_alive(), "an answer ended before the prompt was through"
            time.sleep(0.01)

    def close(self):
        self.closing = True
        self.thread.join()
        self.connection.close()


def one_round(job, a, chooser):
    """Gaps as (seconds since the prompt was sent, ms), and the seconds until the prompt's first token."""
    ids = lambda n: [chooser.randrange(a.vocab) for _ in range(n)]  # noqa: E731
    streams = [Stream(job.url, ids(32)) for _ in range(a.running)]
    for stream in streams:
        stream.wait_for(WARM_TOKENS)
    begin = time.monotonic()
    job.call("/generate", {"input_ids": ids(a.prompt), "sampling_params": {"max_new_tokens": 1}})
    seconds = time.monotonic() - begin
    for stream in streams:
        stream.wait_for(len(stream.times) + WARM_TOKENS)
    for stream in streams:
        stream.close()
    gaps = [(t - begin, 1e3 * (t - before)) for s in streams for before, t in zip(s.times, s.times[1:])]
    return gaps, seconds


def measure(a, mixed, bounded):
    options = ["--max-total-tokens", str(a.prompt + 64 + MOST_TOKENS * a.running), *a.options]
    options += ["--enable-mixed-chunk"] * mixed + ["--max-decode-stall-ms", str(a.stall_ms if bounded else 0)]
    gaps, prompts = [], []
    with Server(a, options) as job:
        try:
            job.call("/generate", {"input_ids": list(range(512)), "sampling_params": {"max_new_tokens": 1}})  # warm
            for number in range(a.rounds):
                more, seconds = one_round(job, a, random.Random(number))
                gaps += [(at, ms, seconds) for at, ms in more]
                prompts.append(seconds)
        except (OSError, http.client.HTTPException):
            job.log.seek(0)
            sys.stderr.write(job.log.read())
            raise
    before = [ms for at, ms, _ in gaps if at < 0]
    during = sorted(ms for at, ms, seconds in gaps if at >= 0 and at - ms / 1e3 <= seconds)
    line = {"mixed_chunk": mixed, "max_decode_stall_ms": a.stall_ms if bounded else 0, "running": a.running,
            "prompt_tokens": a.prompt, "rounds": a.rounds, "prompt_s": round(statistics.median(prompts), 3),
            "gap_before_ms": round(statistics.median(before), 2), "gap_median_ms": round(statistics.median(during), 2),
            "gap_p99_ms": round(during[int(0.99 * (len(during) - 1))], 2), "gap_max_ms": round(during[-1], 2),
            "gaps": len(during)}
    return line, gaps


def plot(a, results):
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True, sharey=True, dpi=100)
    for axis, (line, gaps) in zip(axes.flat, results):
        axis.plot([at for at, _, _ in gaps], [ms for _, ms, _ in gaps], ".", markersize=3)
        axis.axvspan(0, line["prompt_s"], alpha=0.12)
        bound = line["max_decode_stall_ms"]
        axis.set(yscale="log", title=f"{'mixed' if line['mixed_chunk'] else 'separate'} steps, "
                                     f"{f'stall at most {bound:g} ms' if bound else 'no bound'}")
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel(f"seconds since a prompt of {a.prompt} tokens came")
    for axis in axes[:, 0]:
        axis.set_ylabel("ms between two tokens")
    figure.tight_layout()
    figure.savefig(os.path.join(a.out, "stall.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "ktmpi"))
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=4096, help="tokens")
    parser.add_argument("--running", type=int, default=4, help="answers that are being written")
    parser.add_argument("--stall-ms", type=float, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=".")
    a, a.options = parser.parse_known_args()
    os.makedirs(a.out, exist_ok=True)
    with open(os.path.join(a.model, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    a.vocab = config.get("text_config", config)["vocab_size"]

    results = []
    with open(os.path.join(a.out, "stall.jsonl"), "w", encoding="utf-8") as file:
        for mixed in (False, True):
            for bounded in (False, True):
                results.append(measure(a, mixed, bounded))
                print(json.dumps(results[-1][0]), flush=True)
                file.write(json.dumps(results[-1][0]) + "\n")
    plot(a, results)


if __name__ == "__main__":
    main()
