"""Requests that nobody means well with: every one is refused with the right 4xx, and the next one is served.

    hostile_test.py FAKE_SERVER

Wrong types and ranges for every member of every endpoint, broken JSON, broken HTTP, slow and half-open clients. After
each case the server answers a good request. Reported: the latency of refusals and how much the server's memory grew,
which has a generous limit.
"""
import json
import os
import resource
import socket
import subprocess
import sys
import time

GROWTH_BYTES = 32 << 20  # of the server over all cases; a body may have 4 MiB, and freed memory is not given back
LINGERING = 1000         # clients that open a request and do not go on

USER = [{"role": "user", "content": "hi"}]

# What is no value of a kind, with one value just beyond each bound.
WRONG = {
    "number": ['"1"', "true", "[]", "{}", "1e999", "NaN", "-Infinity", "-1e300"],
    "integer": ['"1"', "true", "[1]", "{}", "1.5", "1e300", "18446744073709551616", "-9223372036854775809"],
    "boolean": ['"true"', "0", "[]", "{}"],
    "string": ["1", "true", "[]", "{}", '"' + "x" * 100000 + '"'],
    "object": ["1", "true", '"{}"', "[]"],
    "list": ["1", "true", '"a"', "{}"],
    "ids": ["1", '"1"', "{}", '["a"]', "[-1]", "[1.5]", "[99999999]", "[null]", "[true]"],
    "stops": ["1", "{}", '""', '[""]', "[1]", "[null]", '"' + "x" * 257 + '"', json.dumps(["a"] * 17)],
    "bias": ["1", "[]", '{"a": 1}', '{"-1": 1}', '{"99999999": 1}', '{"1": "1"}', '{"1": null}', '{" 1": 1}'],
    "messages": ["1", '"hi"', "{}", "[]", "[1]", "[null]", "[[]]", "[{}]", '[{"role": 1}]', '[{"role": "user"}]',
                 '[{"role": "user", "content": 1}]', '[{"role": "user", "content": [[1]]}]',
                 '[{"role": "user", "content": [1]}]', '[{"role": "user", "content": [{"type": "text"}]}]',
                 '[{"role": "assistant", "tool_calls": [1]}]', '[{"role": "assistant", "tool_calls": {"a": 1}}]',
                 json.dumps(USER * 8193), '[{"role": "user", "content": "REFUSE"}]'],
    "blocks": ["1", '"hi"', "{}", "[]", "[1]", "[null]", "[{}]", '[{"role": 1, "content": "a"}]',
               '[{"role": "user", "content": 1}]', '[{"role": "user", "content": [{"type": "text"}]}]',
               '[{"role": "user", "content": [{"type": 1}]}]',
               '[{"role": "user", "content": [{"type": "tool_result", "content": 1}]}]'],
    "items": ["1", "{}", "[]", "[1]", "[null]", "[[]]", "[{}]", '[{"type": 1}]', '[{"type": "nothing"}]',
              '[{"role": "user"}]', '[{"role": 1, "content": "a"}]', '[{"role": "user", "content": 1}]',
              '[{"role": "user", "content": [1]}]', '[{"role": "user", "content": [{"type": "input_text"}]}]', '[{"type": "function_call"}]',
              '[{"type": "function_call", "call_id": "a", "name": 1, "arguments": "{}"}]',
              '[{"type": "function_call_output", "call_id": "a"}]',
              '[{"type": "function_call_output", "call_id": "a", "output": 1}]', '[{"type": "custom_tool_call"}]',
              '[{"type": "reasoning", "content": 1}]', '[{"type": "reasoning", "summary": [1]}]',
              '[{"type": "additional_tools", "tools": 1}]', '[{"id": 1}]',
              '[{"type": "message", "id": 1, "role": "user", "content": "a"}]',
              "[" + ", ".join(['{"role": "user", "content": "a"}'] * 8193) + "]"],
    "response_tools": ["1", '"f"', "{}", "[1]", "[null]", "[{}]", '[{"type": 1}]', '[{"type": "function"}]',
                       '[{"type": "web_search"}]', '[{"type": "function", "name": ""}]', '[{"type": "custom"}]',
                       '[{"type": "custom", "name": "c", "format": 1}]', '[{"type": "namespace", "name": "n"}]',
                       '[{"type": "namespace", "name": "n", "tools": 1}]',
                       '[{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]',
                       '[{"type": "function", "name": "f", "parameters": {"type": "text"}}]',
                       '[{"type": "function", "name": "f"}, {"type": "custom", "name": "f"}]'],
    "form": ["1", '"json"', "[]", "{}", '{"type": 1}', '{"type": "xml"}', '{"type": "json_schema"}',
             '{"type": "json_schema", "json_schema": {"schema": 1}}',
             '{"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}',
             '{"type": "json_schema", "json_schema": {"schema": {"not": {}}}}',
             '{"type": "json_schema", "json_schema": {"schema": ' + '{"items": ' * 40 + "{}" + "}" * 40 + "}}",
             '{"type": "json_schema", "json_schema": {"schema": {"$ref": "http://localhost/a"}}}',
             '{"type": "json_schema", "json_schema": {"schema": {"enum": ["' + "x" * 70000 + '"]}}}',
             '{"type": "structural_tag"}'],
    "patterns": ["1", "[1]", '"("', '"^a"', '"\\\\bword"', '"a*"', '["a", ""]', '"(a?){250}b"', '"' + "x" * 70000 + '"'],
    "regex": ["1", "[]", '"("', '"["', '"a{2,1}"', '"[z-a]"', '"' + "x" * 70000 + '"', '"' + "(" * 30000 + '"'],
    "ebnf": ["1", "[]", '"root"', '"root ::="', '"root ::= ("', '"root ::= nobody"', '"' + "x" * 70000 + '"'],
    "schema": ["1", "true", "[]", '"a"', '{"type": 5}'],
    "choice": ["1", "[]", "{}", '"always"', '"required"', '{"type": "function"}',
               '{"type": "function", "function": {"name": "nobody"}}'],
    "tools": ["1", '"f"', "{}", "[1]", "[null]", "[{}]", '[{"type": "function"}]', '[{"type": "shell"}]',
              '[{"type": "function", "function": {"name": ""}}]',
              *('[{"type": "function", "function": {"name": "f", "parameters": %s}}]' % schema
                for schema in ("[]", '{"type": 5}', '{"type": "text"}', '{"type": ["string", "text"]}',
                               '{"properties": ["a"]}', '{"properties": {"a": 1}}',
                               '{"properties": {"a": {"items": {"type": {}}}}}'))],
}

SAMPLING = {"temperature": "number", "top_p": "number", "top_k": "integer", "min_p": "number",
            "frequency_penalty": "number", "presence_penalty": "number", "repetition_penalty": "number",
            "stop": "stops", "stop_token_ids": "ids", "logit_bias": "bias", "ignore_eos": "boolean",
            "skip_special_tokens": "boolean", "no_stop_trim": "boolean", "seed": "integer"}
SCHEDULING = {"priority": "integer", "timeout": "number", "cache_salt": "string", "extra_key": "string"}
OPENAI = {**SAMPLING, **SCHEDULING, "model": "string", "n": "integer", "stream": "boolean",
          "stream_options": "object", "max_tokens": "integer", "min_tokens": "integer", "rid": "string",
          "response_format": "form", "regex": "regex", "stop_regex": "patterns", "ebnf": "ebnf", "json_schema": "schema"}

# Path: a good body, and the kinds of its members. A dotted name is within an object.
ENDPOINTS = {
    "/v1/chat/completions": ({"messages": USER}, {
        **OPENAI, "messages": "messages", "tools": "tools", "logprobs": "boolean", "top_logprobs": "integer",
        "max_completion_tokens": "integer", "chat_template_kwargs": "object", "reasoning": "object",
        "continue_final_message": "boolean", "separate_reasoning": "boolean", "stream_reasoning": "boolean",
        "add_generation_prompt": "boolean", "tool_choice": "choice", "stream_options.include_usage": "boolean"}),
    "/v1/completions": ({"prompt": "hi"}, {**OPENAI, "echo": "boolean", "logprobs": "integer"}),
    "/generate": ({"text": "hi"}, {
        **SCHEDULING, "sampling_params": "object", "stream": "boolean", "return_logprob": "boolean",
        "return_text_in_logprobs": "boolean", "top_logprobs_num": "integer", "logprob_start_len": "integer",
        **{f"sampling_params.{name}": kind for name, kind in SAMPLING.items()},
        "sampling_params.max_new_tokens": "integer", "sampling_params.min_new_tokens": "integer",
        "sampling_params.n": "integer", "sampling_params.regex": "regex", "sampling_params.stop_regex": "patterns",
        "sampling_params.ebnf": "ebnf",
        "sampling_params.sampling_seed": "integer"}),
    "/v1/responses": ({"input": "hi"}, {
        **SAMPLING, **SCHEDULING, "input": "items", "tools": "response_tools", "tool_choice": "choice",
        "model": "string", "stream": "boolean", "store": "boolean", "max_output_tokens": "integer",
        "instructions": "list", "previous_response_id": "string", "text": "object", "text.format": "form",
        "reasoning": "object", "include": "list", "metadata": "object", "metadata.a": "string", "top_logprobs": "integer",
        "background": "boolean", "truncation": "string", "parallel_tool_calls": "boolean"}),
    "/v1/responses/input_tokens": ({"input": "hi"}, {"input": "items", "tools": "response_tools"}),
    "/v1/messages": ({"max_tokens": 5, "messages": USER}, {
        **SCHEDULING, "messages": "blocks", "max_tokens": "integer", "model": "string", "stream": "boolean",
        "temperature": "number", "top_p": "number", "top_k": "integer", "stop_sequences": "stops", "system": "object",
        "tools": "list", "tool_choice": "list", "thinking": "list"}),
    "/v1/messages/count_tokens": ({"messages": USER}, {"messages": "blocks", "tools": "list"}),
    "/tokenize": ({"prompt": "hi"}, {"messages": "messages", "return_token_strs": "boolean"}),
    "/detokenize": ({"tokens": [104]}, {"tokens": "ids", "skip_special_tokens": "boolean"}),
    "/apply-template": ({"messages": USER}, {"messages": "messages", "tools": "tools",
                                             "chat_template_kwargs": "object"}),
    "/parse_function_call": ({"text": "a"}, {"text": "string", "tools": "tools", "tool_call_parser": "string"}),
    "/separate_reasoning": ({"text": "a"}, {"text": "string", "reasoning_parser": "string",
                                            "force_reasoning": "boolean"}),
    "/abort_request": ({"rid": "a"}, {"rid": "string", "abort_all": "boolean"}),
}
NOT_WRONG = {  # what a kind's list holds and this member takes
    ("/parse_function_call", "text"): ['"' + "x" * 100000 + '"'],
    ("/separate_reasoning", "text"): ['"' + "x" * 100000 + '"'],
    ("/v1/messages", "system"): ['"{}"', "[]"],
    ("/v1/responses", "instructions"): ['"a"'],
}
OUT_OF_RANGE = {
    "temperature": ["-0.01"], "top_p": ["0", "1.01"], "top_k": ["-2"], "min_p": ["-0.01", "1.01"],
    "frequency_penalty": ["-2.01", "2.01"], "presence_penalty": ["-2.01", "2.01"], "repetition_penalty": ["0", "2.01"],
    "n": ["0", "129", "1000000000"], "max_tokens": ["0", "-2", "2147483648"], "min_tokens": ["-1"],
    "max_completion_tokens": ["0", "-2"], "timeout": ["0", "-1"], "top_logprobs_num": ["21", "-1"],
    "logprob_start_len": ["-2"], "max_new_tokens": ["0", "-1"], "min_new_tokens": ["-1"],
}

BROKEN_JSON = {
    "nothing": b"", "half": b'{"messages": [', "two": b"{} {}", "a list": b"[]", "a number": b"5", "null": b"null",
    "a word": b"messages", "single quotes": b"{'messages': []}", "a comment": b'{"a": 1 /* b */}',
    "a comma too much": b'{"a": 1,}', "an open string": b'{"a": "b', "a line end in a string": b'{"a": "\n"}',
    "a lone high surrogate": b'{"a": "\\ud800"}', "a lone low surrogate": b'{"a": "\\udc00x"}',
    "surrogates the wrong way": b'{"a": "\\udc00\\ud800"}', "a bad escape": b'{"a": "\\x41"}',
    "an invalid byte": b'{"a": "\xff"}', "a cut character": b'{"a": "\xe2\x82"}',
    "an overlong character": b'{"a": "\xc0\xaf"}', "a surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "a character beyond Unicode": b'{"a": "\xf4\x90\x80\x80"}', "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}', "a zero byte": b'{"a": 1}\x00', "a leading zero": b'{"a": 01}',
    "a plus sign": b'{"a": +1}', "a bare point": b'{"a": .5}', "hexadecimal": b'{"a": 0x10}',
    "65 lists": b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", "100000 lists": b'{"a": ' + b"[" * 100000,
    "100000 objects": b'{"a":' * 100000, "100000 strings open": b'["' * 100000,
}


def head(*lines, method="POST", path="/generate", host="localhost", body=b""):
    lines = [f"{method} {path} HTTP/1.1"] + ([f"Host: {host}"] if host else []) + list(lines)
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


JSON = "Content-Type: application/json"
GOOD = b'{"text": "hi"}'
BROKEN_HTTP = {  # bytes, and the status that has to come
    "no HTTP": (b"hello\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "a space in the path": (b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a zero byte in the path": (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "no host": (head(method="GET", path="/health", host=""), 400),
    "two hosts": (head("Host: other", method="GET", path="/health"), 400),
    "another host": (head(method="GET", path="/health", host="evil.example"), 403),
    "a page of another origin": (head("Origin: http://evil.example", method="GET", path="/health"), 403),
    "no page at all": (head("Origin: null", method="GET", path="/health"), 403),
    "a folded header": (head("X-A: b", " c", method="GET", path="/health"), 400),
    "a header without colon": (head("nonsense", method="GET", path="/health"), 400),
    "a space before the colon": (head("Content-Length : 5"), 400),
    "101 headers": (head(*[f"X-{i}: 1" for i in range(101)], method="GET", path="/health"), 431),
    "a header of 20 KB": (head("X: " + "x" * 20000, method="GET", path="/health"), 431),
    "a path of 20 KB": (head(method="GET", path="/" + "x" * 20000), 431),
    "two lengths": (head(JSON, "Content-Length: 14", "Content-Length: 15", body=GOOD), 400),
    "a list of lengths": (head(JSON, "Content-Length: 14, 14", body=GOOD), 400),
    "a negative length": (head(JSON, "Content-Length: -1"), 400),
    "a huge length": (head(JSON, "Content-Length: 99999999999999999999"), 400),
    "a large length": (head(JSON, "Content-Length: 9999999999"), 413),
    "a length with a sign": (head(JSON, "Content-Length: +14", body=GOOD), 400),
    "length and chunks": (head(JSON, "Content-Length: 14", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "chunks, then length": (head(JSON, "Transfer-Encoding: chunked", "Content-Length: 14", body=b"0\r\n\r\n"), 400),
    "an unknown encoding": (head(JSON, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 400),
    "chunks twice": (head(JSON, "Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 400),
    "an encoding that looks like chunked": (head(JSON, "Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400),
    "a chunk of no size": (head(JSON, "Transfer-Encoding: chunked", body=b"zz\r\n"), 400),
    "a negative chunk": (head(JSON, "Transfer-Encoding: chunked", body=b"-2\r\nab\r\n"), 400),
    "a huge chunk": (head(JSON, "Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\n"), 400),
    "a large chunk": (head(JSON, "Transfer-Encoding: chunked", body=b"ffffffff\r\n"), 413),
    "a chunk without end": (head(JSON, "Transfer-Encoding: chunked", body=b"2\r\nabcdef\r\n"), 400),
    "a body of 4 MiB and 1": (head(JSON, f"Content-Length: {(4 << 20) + 1}", body=b" " * 100), 413),
    "no content type": (head("Content-Length: 14", body=GOOD), 400),
    "a form": (head("Content-Type: application/x-www-form-urlencoded", "Content-Length: 14", body=GOOD), 400),
    "a text": (head("Content-Type: text/plain", "Content-Length: 14", body=GOOD), 400),
    "an unknown path": (head(method="GET", path="/../../etc/passwd"), 404),
    "an encoded path": (head(method="GET", path="/%2e%2e/%2e%2e/etc/passwd"), 404),
    "an unknown method": (head(method="BREW", path="/health"), 405),
    "TRACE": (head(method="TRACE", path="/health"), 405),
    "CONNECT": (head(method="CONNECT", path="/health"), 405),
    "DELETE": (head(method="DELETE", path="/v1/models"), 405),
    "a timeout that is no number": (head(JSON, "X-Request-Timeout: inf", "Content-Length: 14", body=GOOD), 400),
}


def json_cases():
    """Name, path and body of every case, and whether the answer has to be 4xx."""
    for path, (good, members) in ENDPOINTS.items():
        for name, body in BROKEN_JSON.items():
            yield f"{path}: {name}", path, body
        for member, kind in members.items():
            short = member.rsplit(".", 1)[-1]
            for value in WRONG[kind] + OUT_OF_RANGE.get(short, []):
                if value in NOT_WRONG.get((path, member), []):
                    continue
                yield f"{path}: {member} = {value[:60]}", path, with_member(good, member, value)
        required = [m for m in good if path != "/abort_request"]
        for member in required:
            yield f"{path}: no {member}", path, json.dumps({k: v for k, v in good.items() if k != member}).encode()


def with_member(good, member, value):
    """`good` as JSON text with one more member, which stands last and so may be there twice."""
    outer, _, inner = member.rpartition(".")
    text = f'"{inner}": {value}' if not outer else f'"{outer}": {{"{inner}": {value}}}'
    kept = {k: v for k, v in good.items() if k != (outer or inner)}
    return (json.dumps(kept)[:-1] + (", " if kept else "") + text + "}").encode()


class Connection:
    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=20)
        self.buffer = b""

    def ask(self, request):
        """Sends bytes; returns status and body of one response with Content-Length, and whether it closes."""
        self.socket.sendall(request)
        while b"\r\n\r\n" not in self.buffer:
            self._read()
        top, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        fields = {line.split(b":")[0].lower(): line.split(b":", 1)[1].strip() for line in top.split(b"\r\n")[1:]}
        length = int(fields.get(b"content-length", b"0"))
        while len(self.buffer) < length:
            self._read()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return int(top.split()[1]), body, fields[b"connection"] == b"close"

    def _read(self):
        more = self.socket.recv(65536)
        assert more, "the server hung up"
        self.buffer += more

    def close(self):
        self.socket.close()


def post(path, body):
    return head(JSON, f"Content-Length: {len(body)}", path=path, body=body)


class Hostile:
    def __init__(self, address):
        self.address, self.connection, self.times, self.failures = address, Connection(address), [], []

    def case(self, name, request, expected):
        start = time.perf_counter()
        try:
            status, body, closes = self.connection.ask(request)
        except (OSError, AssertionError) as error:
            status, body, closes = f"{type(error).__name__} {error}", b"", True
        self.times.append(time.perf_counter() - start)
        right = status in expected if isinstance(status, int) else False
        try:
            right = right and (b"HEAD" in request[:5] or bool(json.loads(body)["error"]["message"]))
        except (ValueError, KeyError, TypeError):
            right = False
        if not right:
            self.failures.append(f"{name}: {status}, expected {sorted(expected)}: {body[:200]!r}")
        if closes:
            self.connection.close()
            self.connection = Connection(self.address)
        served, body, _ = self.connection.ask(post("/generate", GOOD))
        assert served == 200, f"after {name}: {served} {body!r}"


def memory(process):
    with open(f"/proc/{process.pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1000


def linger(address):
    """Many clients that open a request and do not go on; others are served meanwhile."""
    clients = []
    for i in range(LINGERING):
        client = socket.create_connection(address, timeout=20)
        client.sendall([b"", b"POST /generate HTTP/1.1\r\n", head(JSON, "Content-Length: 1000", body=b"{"),
                        head(JSON, "Transfer-Encoding: chunked", body=b"5\r\n{")][i % 4])
        clients.append(client)
    times, good = [], Connection(address)
    for _ in range(100):
        start = time.perf_counter()
        status, _, _ = good.ask(post("/generate", GOOD))
        assert status == 200, status
        times.append(time.perf_counter() - start)
    for client in clients:
        client.close()
    good.close()
    print(f"beside {LINGERING} lingering clients: 100 served, p99 {percentile(times, 0.99):.1f} ms")


def sanitized(program):
    """Sanitizers keep freed memory for a while: the growth is theirs."""
    with open(program, "rb") as f:
        content = f.read()
    return b"__asan_init" in content or b"__tsan_init" in content


def main():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
    server = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        host, port = server.stdout.readline().strip().removeprefix("http://").split(":")
        hostile = Hostile((host, int(port)))
        for path, (body, _) in ENDPOINTS.items():
            status, answer, _ = hostile.connection.ask(post(path, json.dumps(body).encode()))
            without_parser = path in ("/parse_function_call", "/separate_reasoning")
            assert status == (400 if without_parser else 200), (path, status, answer)
        before = memory(server)
        for name, path, body in json_cases():
            hostile.case(name, post(path, body), {400})
        for name, (request, status) in BROKEN_HTTP.items():
            hostile.case(name, request, {status})
        growth = memory(server) - before
        linger(hostile.address)
        print(f"{len(hostile.times)} cases: p50 {percentile(hostile.times, 0.5):.2f} ms, "
              f"p99 {percentile(hostile.times, 0.99):.2f} ms, slowest {max(hostile.times) * 1000:.1f} ms; "
              f"memory {before / 1e6:.1f} MB, grew by {growth / 1e6:.1f} MB")
        for failure in hostile.failures:
            print("FAILED", failure)
        assert not hostile.failures, f"{len(hostile.failures)} cases"
        assert growth < GROWTH_BYTES or sanitized(sys.argv[1]), f"the server grew by {growth} bytes"
        hostile.connection.close()
    finally:
        server.stdin.close()
        ended = server.wait(timeout=20)
    assert ended == 0, f"the server ended with {ended}"


main()
