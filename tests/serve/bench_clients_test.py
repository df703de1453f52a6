"""Reads streams as the load generators of the field do, line by line, and holds the times that they would report.

bench_clients_test.py FAKE_SERVER: the server program, here one whose first token takes a while. `vllm bench serve` takes
the first chunk with a choice for the first token, and `sglang.bench_serving` parses every line that is not empty.
"""
import http.client
import json
import subprocess
import sys
import time

FIRST_TOKEN_S = 0.3
WORDS = "a few words to repeat"


class Run:
    """What a load generator notes of one request."""

    def __init__(self):
        self.text, self.ttft, self.itl, self.tokens = "", None, [], None
        self.begin = self.last = time.perf_counter()

    def token(self, count=1):
        now = time.perf_counter()
        if self.ttft is None:
            self.ttft = now - self.begin
        else:
            self.itl += [(now - self.last) / count] * count
        self.last = now


def lines(url, path, body):
    """Every line of the stream that is not empty, as it comes."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", "X-Request-Id": "bench-0"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    assert answer.headers["X-Request-Id"] == "bench-0"
    for line in answer:
        if line := line.strip().decode():
            yield line
    connection.close()


def vllm(url, path, body):
    """The protocol of `vllm bench serve`: a chunk with choices is a token, one without has the usage."""
    run = Run()
    for line in lines(url, path, {"model": "m", **body, "stream": True, "stream_options": {"include_usage": True}}):
        if line.startswith(":"):
            continue
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            continue
        chunk = json.loads(data)
        if chunk["choices"]:
            choice = chunk["choices"][0]
            run.token()
            run.text += (choice["delta"].get("content") if "delta" in choice else choice["text"]) or ""
        elif chunk.get("usage"):
            run.tokens = chunk["usage"]["completion_tokens"]
    return run


def sglang(url, path, body):
    """The protocol of `sglang.bench_serving`: every line is JSON or [DONE]; text so far, or a choice's next text."""
    run = Run()
    seen = 0
    for line in lines(url, path, {**body, "stream": True}):
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            continue
        chunk = json.loads(data)  # a comment would end the run here
        if path == "/generate":
            if chunk["text"]:
                run.text, run.tokens = chunk["text"], chunk["meta_info"]["completion_tokens"]
                if run.tokens > seen:
                    run.token(run.tokens - seen)
                seen = run.tokens
            continue
        choice = chunk["choices"][0]
        if text := choice["delta"].get("content", "") if "delta" in choice else choice["text"]:
            run.token()
            run.text += text
    return run


def check(name, run, text, tokens):
    assert run.text == text, (name, run.text)
    assert run.ttft >= 0.9 * FIRST_TOKEN_S, (name, "the first token was taken to be there after", run.ttft)
    assert tokens is None or run.tokens == tokens, (name, run.tokens)
    assert len(run.itl) >= len(text) - 1 and max(run.itl) < 0.5 * FIRST_TOKEN_S + 1, (name, len(run.itl))
    print(f"passed {name}: first token after {run.ttft:.3f} s, {len(run.itl)} gaps")


def main():
    server = subprocess.Popen([sys.argv[1], "", "", "", str(int(1000 * FIRST_TOKEN_S))], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        chat = {"messages": [{"role": "user", "content": [{"type": "text", "text": WORDS}]}]}
        said = f"user:{WORDS};assistant:"
        check("vllm chat", vllm(url, "/v1/chat/completions", {**chat, "max_completion_tokens": 100}), said,
              len(said) + 1)
        check("vllm completions",
              vllm(url, "/v1/completions", {"prompt": WORDS, "max_tokens": 100, "repetition_penalty": 1.0,
                                            "logprobs": None, "ignore_eos": True}), WORDS, len(WORDS) + 1)
        native = {"text": WORDS, "lora_path": None, "return_logprob": False, "logprob_start_len": -1,
                  "sampling_params": {"temperature": 0.0, "max_new_tokens": 100, "ignore_eos": True}}
        check("sglang generate", sglang(url, "/generate", native), WORDS, len(WORDS) + 1)
        check("sglang completions",
              sglang(url, "/v1/completions", {"model": "m", "prompt": WORDS, "temperature": 0.0, "best_of": 1,
                                              "max_tokens": 100, "ignore_eos": True}), WORDS, None)
        check("sglang chat",
              sglang(url, "/v1/chat/completions", {"model": "m", **chat, "temperature": 0.0, "max_tokens": 100}), said,
              None)
    finally:
        server.stdin.close()
        assert server.wait(timeout=20) == 0


main()
