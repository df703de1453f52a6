"""A small OpenAI-style endpoint for tests of ktmpi's own clients: it answers what the question asks it to do."""
import http.server
import json
import re
import ssl
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def event(self, body):
        self.chunk(f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode())

    def delta(self, **delta):
        self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})

    def begin_stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def end_stream(self, prompt, completion, finish="stop", **choice):
        self.event({"choices": [{"index": 0, "finish_reason": finish, **choice}]})
        self.event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})
        self.leave()  # the client may see the end, and send the next request, before the handler returns
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def leave(self):
        with self.server.lock:
            self.server.open -= self.counted
            self.counted = 0

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers), None))
        if self.server.loads > 0:
            self.server.loads -= 1
            self.answer(503, {"error": {"message": "loading: the model is not ready yet", "code": "loading"}})
            return
        owned_by = self.server.owned_by
        self.answer(200, {"object": "list", "data": [{"id": "fake-model", **owned_by}, {"id": "another", **owned_by}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        with self.server.lock:
            self.server.open += 1
            self.counted = 1
            self.server.most_open = max(self.server.most_open, self.server.open)
        try:
            {"/v1/chat/completions": self.chat, "/v1/completions": self.complete,
             "/tokenize": self.tokenize}[re.sub("^http://[^/]*", "", self.path)](body)
        except OSError:
            self.server.gone.append(body)
        finally:
            self.leave()

    def tokenize(self, body):
        tokens = [100 + i for i in range(len(body["prompt"].split()))]
        self.answer(200, {"tokens": tokens, "count": len(tokens)})

    def complete(self, body):
        if self.server.refuse_every and len(self.server.seen) % self.server.refuse_every == 0:
            self.answer(429, {"error": {"message": "too many requests"}})
            return
        self.begin_stream()
        for _ in range(body["max_tokens"]):
            time.sleep(self.server.token_s)
            self.event({"choices": [{"index": 0, "text": "x"}]})
        prompt = body["prompt"]
        self.end_stream(len(prompt if isinstance(prompt, list) else prompt.split()), body["max_tokens"], "length", text="")

    def chat(self, body):
        question = body["messages"][-1]["content"]
        if question == "refuse":
            self.answer(400, {"error": {"message": "that is refused"}})
            return
        self.begin_stream()
        if question.startswith("say "):  # a JSON string, in small pieces
            for piece in re.findall(r"(?s).{1,3}", json.loads(question[4:])):
                self.delta(content=piece)
        elif question == "read":
            for processed in (64, 1024):
                if body.get("return_progress"):
                    self.event({"choices": [{"index": 0, "delta": {}}], "prompt_progress": {
                        "total": 8192, "cache": 64, "processed": processed, "time_ms": processed - 64}})
                time.sleep(1)
            self.delta(role="assistant", content="")
            time.sleep(1)
            self.delta(content="was read")
        elif question == "late":
            time.sleep(1.5)
            self.delta(content="at last")
        elif question == "slow":
            for _ in range(200):
                self.delta(content="tick ")
                time.sleep(0.05)
        elif question == "break":
            self.delta(content="half")
            self.close_connection = True
            return
        elif question == "fail":
            self.event({"error": {"message": "the model fell over"}})
        elif question == "think":
            self.delta(reasoning_content="hm, ")
            self.delta(reasoning_content="yes")
            self.delta(content="thought")
        else:
            for piece in ("echo ", question, f" of {len(body['messages'])}"):
                self.delta(content=piece)
        self.end_stream(7, 3, delta={})


class Endpoint(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port=0, certificate=None):
        super().__init__(("127.0.0.1", port), Handler)
        self.scheme = "https" if certificate else "http"
        if certificate:  # the files of it and of its key
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.seen, self.gone = [], []  # (path, headers, body) of requests; bodies whose client went away
        self.lock, self.open, self.most_open = threading.Lock(), 0, 0
        self.token_s, self.refuse_every = 0.001, 0
        self.owned_by = {}  # a member of its models that says whose server it is
        self.loads = 0  # so many questions for its models are answered 503
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def posts(self, path):
        return [body for seen, _, body in self.seen if seen == path and body is not None]
