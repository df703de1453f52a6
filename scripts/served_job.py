"""A ktmpi job that benchmarks ask, for scripts that start one."""
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Server:
    """A job on `ranks` ranks that is there while the `with` lasts."""

    def __init__(self, a, options):
        self.folder = tempfile.TemporaryDirectory()
        self.url_file = os.path.join(self.folder.name, "url")
        self.log = open(os.path.join(self.folder.name, "log"), "w+", encoding="utf-8")
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(a.ranks), a.program, "--model", a.model,
                   "--port", "0", "--url-file", self.url_file, "--disable-radix-cache", *options]
        variables = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                     "SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR": self.folder.name, **os.environ}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=variables)

    def __enter__(self):
        while not os.path.exists(self.url_file):
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(self.log.read())
            time.sleep(0.02)
        with open(self.url_file, encoding="utf-8") as f:
            self.url = f.read().strip()
        return self

    def wait_until_ready(self):
        while True:
            try:
                return self.call("/health")
            except urllib.error.HTTPError:
                time.sleep(0.01)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.read().decode()

    def metrics(self):
        lines = (line.split() for line in self.call("/metrics").splitlines() if line and line[0] != "#")
        return {name: float(value) for name, value in lines}

    def run(self, prompts, output_len, concurrency):
        """Sends all prompts; tokens (prompt and answer) and seconds."""
        def one(ids):
            self.call("/generate", {"input_ids": ids, "sampling_params": {"temperature": 0, "max_new_tokens": output_len,
                                                                          "ignore_eos": True}})
        begin = time.monotonic()
        with ThreadPoolExecutor(concurrency) as pool:
            list(pool.map(one, prompts))
        return sum(len(p) + output_len for p in prompts), time.monotonic() - begin
