"""What a program that end_to_end.py times is asked for, and says: arguments and lines."""
import argparse
import json
import statistics
import time


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--prefill", default="", help="tokens of a prompt")
    p.add_argument("--batch", default="", help="sequences that are written at a time")
    p.add_argument("--context", type=int, default=128, help="tokens before them")
    p.add_argument("--steps", type=int, default=32)
    p.add_argument("--repeats", type=int, default=3)
    a = p.parse_args()
    a.prefill, a.batch = ([int(n) for n in text.split(",") if n] for text in (a.prefill, a.batch))
    return a


def seconds_of(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def emit(phase, size, seconds, tokens):
    """A cell: the median of `seconds`, in each of which so many tokens came."""
    print(json.dumps({"phase": phase, "size": size, "tokens_per_s": round(tokens / statistics.median(seconds), 2),
                      "samples": len(seconds)}), flush=True)
