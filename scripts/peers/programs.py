"""What the kinds of scripts/bench_peers.py share: programs of others in environments of their own, and their lines."""
import json
import os
import re
import subprocess
import sys
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.join(ROOT, "scripts", "peers")
PEERS = os.path.join(ROOT, "build", "peers")


def say(text):
    print(f"bench_peers: {text}", file=sys.stderr, flush=True)


def listed(group, manager="pip"):
    """The packages of scripts/dependencies.txt."""
    with open(os.path.join(ROOT, "scripts", "dependencies.txt"), encoding="utf-8") as f:
        return [line.split()[2] for line in f if line.startswith(f"{group} {manager} ")]


def python_of(name):
    return os.path.join(PEERS, name, "bin", "python")


def environment(name, install):
    """The Python of an environment that install(pip) fills, once: pip(*arguments) runs pip there."""
    python, done = python_of(name), os.path.join(PEERS, name, "installed")
    if not os.path.exists(done):
        say(f"installing {name} into {os.path.join('build', 'peers', name)}")
        subprocess.run([sys.executable, "-m", "venv", os.path.join(PEERS, name)], check=True)
        install(lambda *arguments: subprocess.run([python, "-m", "pip", arguments[0], "-q", "--disable-pip-version-check",
                                                   *arguments[1:]], check=True))
        with open(done, "w", encoding="utf-8"):
            pass
    return python


def needs_of(wheel):
    """What a wheel says it needs, without its extras."""
    with zipfile.ZipFile(wheel) as z:
        (name,) = (n for n in z.namelist() if n.endswith(".dist-info/METADATA"))
        text = z.read(name).decode()
    return [need for need in re.findall(r"^Requires-Dist: (.*)$", text, re.M) if "extra ==" not in need]


def lines_of(command, limit_s=900, **variables):
    """The JSON lines of a program, or why there are none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env={**os.environ, **variables},
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return [], f"did not end within {limit_s} s"
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    said = [line for line in done.stderr.splitlines() if line.strip() and "Goodbye" not in line]
    return lines, "" if lines else (said or ["no output"])[-1]


def pyplot():
    """matplotlib's, to draw into files; None where it is not installed."""
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot
        return matplotlib.pyplot
    except ImportError:
        say("no plot: scripts/setup plot installs matplotlib")
        return None
