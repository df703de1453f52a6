"""What the end-to-end tests share: finding what they need, and a ktmpi job as an object.

A test that lacks the program, mpirun, numpy or the tiny checkpoints beside the checkout says so and exits with 77.
"""
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SKIPPED = 77
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# As in scripts/mpi_environment.sh: root, more ranks than cores, no fabrics that are not there.
MPI_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl": "^openib,ofi",
    "OMPI_MCA_mtl": "^ofi",
    "OMPI_MCA_plm_rsh_agent": "/bin/false",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
}


def skip(why):
    print("skipped:", why)
    sys.exit(SKIPPED)


def enter_venv():
    """Goes on in the virtual environment that KTMPI_VENV names (build/venv), which has numpy."""
    venv = os.path.abspath(os.environ.get("KTMPI_VENV", os.path.join(ROOT, "build", "venv")))
    python = os.path.join(venv, "bin", "python")
    if sys.prefix != venv and os.path.exists(python):
        os.execv(python, [python] + sys.argv)
    try:
        import numpy  # noqa: F401
    except ImportError:
        skip(f"numpy is not installed in {venv}; KTMPI_VENV may name another environment")


def fixtures():
    folder = os.path.join(os.environ.get("KTMPI_SHARED", os.path.join(ROOT, "..", "shared")), "fixtures", "models")
    if not os.path.isdir(folder):
        skip(f"{folder} is not there; set KTMPI_SHARED")
    return os.path.abspath(folder)


def fixture_folder(name):
    """Of a name under fixtures/models; a folder is its own."""
    return name if os.path.isdir(name) else os.path.join(fixtures(), name)


def need_program(program):
    if not os.access(program, os.X_OK):
        skip(f"{program} is not built")
    if not shutil.which("mpirun"):
        skip("mpirun is not installed")
    return os.path.abspath(program)


def mpirun(world, program, *options):
    """The command of a job; of `world` 0, of one process without mpirun."""
    if world == 0:
        return [program, *map(str, options)]
    return ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(world), program, *map(str, options)]


def environment():
    return {**MPI_ENVIRONMENT, **os.environ}


class Server:
    """`with Server(program, model, world=3, options=[...]) as server`: a job that answers, and is gone afterwards."""

    def __init__(self, program, model, world=1, options=(), variables=None, start_s=180):
        self.program, self.start_s = program, start_s
        self.folder = tempfile.mkdtemp(prefix="ktmpi_e2e_")
        self.environment = {**environment(), "XDG_STATE_HOME": self.folder, **(variables or {})}
        self.url_file = os.path.join(self.folder, "url")
        self.log_path = os.path.join(self.folder, "log")
        self.command = mpirun(world, program, "--model", model, "--port", 0, "--url-file", self.url_file, *options)
        self.process = None
        self.address = None

    def start(self):
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self.environment, start_new_session=True)

    def __enter__(self):
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            print(f"log of {' '.join(self.command)}:\n{self.log()}", file=sys.stderr)
        self.stop()

    def wait_until_ready(self):
        deadline = time.monotonic() + self.start_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode} before it answered:\n{self.log()}")
            if self.address is None and os.path.exists(self.url_file):
                with open(self.url_file, encoding="utf-8") as f:
                    self.address = f.read().strip().removeprefix("http://")
            if self.address and self.get("/health")[0] == 200:
                return
            time.sleep(0.05)
        raise AssertionError(f"not ready after {self.start_s} s:\n{self.log()}")

    def stop(self, wait_s=20):
        """Tells the ranks to end (mpirun would take two seconds over it); kills the whole session when they do not. What
        sanitizers have reported fails the test."""
        if self.process:
            try:
                for pid in self.ranks() or [self.process.pid]:
                    os.kill(pid, signal.SIGTERM)
                self.process.wait(wait_s)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process = None
        log = self.log() if os.path.exists(self.log_path) else ""
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not re.search("ERROR: [A-Za-z]+Sanitizer|: runtime error: ", log), log

    def ranks(self):
        """Process ids of the ranks, which are mpirun's children."""
        try:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as f:
                return [int(pid) for pid in f.read().split()]
        except FileNotFoundError:
            return []

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def request(self, method, path, body=None, timeout=120):
        """Status and body; the body as JSON where it is JSON. `body`: bytes as they are, anything else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.address, timeout=timeout)
        try:
            connection.request(method, path, data, {"Content-Type": "application/json"} if data is not None else {})
            answer = connection.getresponse()
            content = answer.read()
            kind = answer.getheader("Content-Type", "")
            return answer.status, json.loads(content) if "json" in kind else content.decode("utf-8", "replace")
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body):
        return self.request("POST", path, body)

    def generate(self, body):
        status, answer = self.post("/generate", body)
        assert status == 200, (status, answer)
        return answer

    def hang_up_after(self, body, events):
        """Streams /generate and closes the connection after so many events."""
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            connection.request("POST", "/generate", json.dumps({**body, "stream": True}).encode(),
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.status
            while events > 0 and (line := answer.readline()):
                events -= line.startswith(b"data: ")
        finally:
            connection.close()

    def load(self):
        """Running and waiting requests and used KV tokens."""
        state = self.get("/get_server_info")[1]["internal_states"][0]
        return state["num_running_reqs"], state["num_waiting_reqs"], state["num_used_tokens"]

    def metric(self, name):
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise AssertionError(f"/metrics has no {name}")

    def resident_bytes(self):
        """Of every rank, by process id."""
        resident = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.getsid(int(pid)) != self.process.pid or os.readlink(f"/proc/{pid}/exe") != self.program:
                    continue
                with open(f"/proc/{pid}/statm", encoding="ascii") as f:
                    resident[int(pid)] = int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
            except OSError:
                continue  # ended meanwhile, or not ours to see
        return resident
