#!/usr/bin/env python3
"""Asks a running server one question and prints the answer as it comes, then how fast it came.

    scripts/ask.py http://127.0.0.1:30000 "What is the capital of France?"
"""
import argparse
import json
import sys
import time
import urllib.error
import urllib.request


def events(response):
    """The JSON objects of a server-sent event stream, until [DONE]. A stream that just ends is an error."""
    for line in response:
        text = line.decode("utf-8").strip()
        if text == "data: [DONE]":
            return
        if text.startswith("data: "):
            yield json.loads(text[len("data: "):])
    raise ValueError("the stream ended without [DONE]")


def ask(url, question, max_tokens):
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = urllib.request.Request(
        url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    start, first, last, tokens, answer = time.monotonic(), None, None, 0, ""
    with opener.open(request, timeout=300) as response:
        for event in events(response):
            if "error" in event:
                raise ValueError(event["error"])
            for choice in event.get("choices", []):
                piece = choice["delta"].get("content") or ""
                if piece:
                    last = time.monotonic()
                    first = first or last
                    answer += piece
                    print(piece, end="", flush=True)
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    print()
    if not answer:
        raise ValueError("the answer is empty")
    line = f"{tokens} tokens, first after {first - start:.2f} s"
    if tokens > 1 and last > first:
        line += f", then {(tokens - 1) / (last - first):.1f} tokens/s"
    print(line)


def main():
    parser = argparse.ArgumentParser(description="Asks a running server one question.")
    parser.add_argument("url")
    parser.add_argument("question")
    parser.add_argument("--max-tokens", type=int, default=256)
    arguments = parser.parse_args()
    try:
        ask(arguments.url, arguments.question, arguments.max_tokens)
    except urllib.error.HTTPError as error:
        sys.exit(f"ask: {arguments.url} answered {error.code}: {error.read().decode('utf-8', 'replace')}")
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"ask: {arguments.url}: {error}")


if __name__ == "__main__":
    main()
