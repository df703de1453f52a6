"""Machines as namespaces of this one: each with a network, a host name and a /dev/shm of its own, joined by a bridge.
Files are shared, memory is not. Needs root, iproute2 and the right to make namespaces.

enter(): goes on in namespaces that end with the test, whatever becomes of it. Then `with Machines(3) as machines` has
n1, n2, n3 at 10.77.0.1 to .3; this process is at 10.77.0.254.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from ktmpi_server import Server, skip

INSIDE = "KTMPI_TEST_INSIDE"
ALONE = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]


def enter():
    if os.environ.get(INSIDE):
        return
    for tool in ("ip", "unshare", "nsenter"):
        if not shutil.which(tool):
            skip(f"{tool} is not installed (iproute2, util-linux)")
    trial = "ip link add br0 type bridge && ip link add v0 type veth peer name v1 && mount -t tmpfs tmpfs /dev/shm"
    made = subprocess.run([*ALONE, "sh", "-c", trial], capture_output=True, text=True)
    if made.returncode:
        skip("namespaces with a bridge cannot be made here: " + made.stderr.strip())
    os.environ[INSIDE] = "1"
    os.execvp(ALONE[0], [*ALONE, sys.executable, *sys.argv])


def run(*command):
    subprocess.run(command, check=True)


class Machines:
    def __init__(self, count):
        self.names = [f"n{i + 1}" for i in range(count)]
        self.addresses = {name: f"10.77.0.{name[1:]}" for name in self.names}
        self.folder = tempfile.mkdtemp(prefix="ktmpi_machines_")
        self.agent = os.path.join(self.folder, "agent")  # mpirun calls it instead of ssh: agent HOST COMMAND...
        self.inits = {}

    def __enter__(self):
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "address", "add", "10.77.0.254/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        for name in self.names:
            self._boot(name)
        # Like ssh it says 255 where the other side is gone, once that can be known.
        cases = [f'{self.addresses[name]}) {" ".join(self.on(name))} sh -c "$*" || '
                 f"{{ while test -e {self._dark(name)}; do sleep 0.1; done; exit 255; }} ;;" for name in self.names]
        with open(self.agent, "w", encoding="utf-8") as file:
            file.write("\n".join(["#!/bin/sh", "host=$1; shift", "case $host in", *cases, "esac", ""]))
        os.chmod(self.agent, 0o755)
        return self

    def __exit__(self, *_):
        for init in self.inits.values():
            init.kill()
            init.wait()
        run("ip", "link", "delete", "br0")
        shutil.rmtree(self.folder)

    def _boot(self, name):
        body = f"hostname {name} && mount -t tmpfs tmpfs /dev/shm && echo up && exec sleep infinity"
        init = self.inits[name] = subprocess.Popen(["unshare", "--net", "--mount", "--uts", "--ipc", "sh", "-c", body],
                                                   stdout=subprocess.PIPE)
        assert init.stdout.readline() == b"up\n", f"{name} does not start"
        run("ip", "link", "add", f"to_{name}", "type", "veth", "peer", "name", "eth0", "netns", str(init.pid))
        run("ip", "link", "set", f"to_{name}", "master", "br0", "up")
        run(*self.on(name), "ip", "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run(*self.on(name), "ip", "link", "set", device, "up")

    def on(self, name):
        """What comes before a command that is to run there."""
        return ["nsenter", "--target", str(self.inits[name].pid), "--net", "--mount", "--uts", "--ipc"]

    def cut(self, name):
        """Its cable is pulled."""
        run("ip", "link", "set", f"to_{name}", "down")

    def cut_power(self, name):
        """It ends without a word to anybody."""
        with open(self._dark(name), "w", encoding="utf-8"):
            self.cut(name)
            self.signal(name, signal.SIGKILL)

    def _dark(self, name):
        return os.path.join(self.folder, f"dark_{name}")

    def heal(self, name):
        """It is plugged in again, or has power; all know where everybody is."""
        if os.path.exists(self._dark(name)):
            os.remove(self._dark(name))
        run("ip", "link", "set", f"to_{name}", "up")
        for other in self.names:
            run(*self.on(other), "ip", "neighbour", "flush", "dev", "eth0")
        knock = f"exec 3<>/dev/tcp/{next(a for n, a in self.addresses.items() if n != name)}/9"
        for _ in range(100):
            answer = subprocess.run([*self.on(name), "timeout", "1", "bash", "-c", knock], capture_output=True, text=True)
            if "refused" in answer.stderr:
                return
            time.sleep(0.1)
        raise AssertionError(f"{name} reaches nobody: {answer.stderr}")

    def processes(self, name):
        """That run there, but for the one that holds the machine."""
        init = self.inits[name].pid
        network = os.readlink(f"/proc/{init}/ns/net")
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if int(pid) != init and os.readlink(f"/proc/{pid}/ns/net") == network:
                    found.append(int(pid))
            except OSError:
                continue  # ended meanwhile
        return found

    def signal(self, name, number):
        """To all that run there."""
        for pid in self.processes(name):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def shared_memory(self, name):
        """Names in its /dev/shm."""
        return subprocess.run([*self.on(name), "ls", "/dev/shm"], check=True, capture_output=True, text=True).stdout.split()

    def clear_shared_memory(self, name):
        run(*self.on(name), "find", "/dev/shm", "-mindepth", "1", "-delete")

    def mpirun(self, each, program, *options):
        """The command of a job with so many ranks on each machine, from the first one."""
        hosts = ",".join(f"{address}:{each}" for address in self.addresses.values())
        return [*self.on(self.names[0]), "mpirun", "-np", str(each * len(self.names)), "--host", hosts, "--map-by",
                f"ppr:{each}:node", "--bind-to", "none", "--oversubscribe", "--mca", "plm_rsh_agent", self.agent,
                program, *map(str, options)]


class ServerOnMachines(Server):
    """A job over all of them, that answers at the first one's address."""

    def __init__(self, machines, each, program, model, options=(), variables=None):
        network = {"OMPI_MCA_btl_tcp_if_include": "eth0", "OMPI_MCA_oob_tcp_if_include": "eth0",
                   # As docs/cluster.md has them: a machine that is silent is noticed by mpirun, too.
                   "OMPI_MCA_oob_tcp_keepalive_time": "2", "OMPI_MCA_oob_tcp_keepalive_intvl": "1",
                   "OMPI_MCA_oob_tcp_keepalive_probes": "3"}
        super().__init__(program, model, len(machines.names) * each, (), {**network, **(variables or {})})
        self.command = machines.mpirun(each, program, "--model", model, "--host", machines.addresses["n1"], "--port", 0,
                                       "--url-file", self.url_file, *options)

    def ranks(self):
        """Process ids by rank; all that is seen here belongs to the test."""
        ranks = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/exe") == self.program:
                    with open(f"/proc/{pid}/environ", "rb") as file:
                        variables = dict(v.split(b"=", 1) for v in file.read().split(b"\0") if b"=" in v)
                    ranks[int(variables[b"OMPI_COMM_WORLD_RANK"])] = int(pid)
            except OSError:
                continue  # ended meanwhile
        return [ranks[r] for r in sorted(ranks)]
