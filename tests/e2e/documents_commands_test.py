"""Does what README.md and docs/*.md say, as written: documents_commands_test.py --program KTMPI [--long] [--only DOCUMENT]

Blocks of sh, bash and python, and commands of ours in the text, are run in the order in which a reader meets them, in a
folder that looks like a checkout after scripts/build. A line that serves is started and waited for; what follows goes to
it. Every command must end with 0, every shown output must come. What this machine cannot do as written is in
document_tables.py.
"""
import argparse
import ast
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib

from ktmpi_server import ROOT, Server, enter_venv, need_program, skip

enter_venv()
import yaml  # noqa: E402

from document_steps import steps  # noqa: E402
from document_tables import (BEFORE, DRAWN, FAKE_SSH, MAY_LEAVE, MODELS, NEW_SHELL, NOT_RUN, SAID, SHORTER,  # noqa: E402
                             TRANSLATIONS)
from shapes_test import CASES  # noqa: E402
from tiny_models import write_model  # noqa: E402

# ---- the folder ----------------------------------------------------------------------------------------------------

NOBODY = "127.0.0.1:9"  # answers there
LINKED = ("README.md", "CONTRIBUTING.md", "LICENSE", "CMakeLists.txt", "configs", "scripts", "tests")


def lay_out(folder, program):
    for name in ("build", "models", "bin", "home"):
        os.mkdir(os.path.join(folder, name))
    links = {name: os.path.join(ROOT, name) for name in LINKED}
    links |= {"build/release": os.path.dirname(program), "build/venv": sys.prefix, "bin/ktmpi": program, "bin/kt": program}
    for name, target in links.items():
        os.symlink(target, os.path.join(folder, name))
    shutil.copytree(os.path.join(ROOT, "docs"), os.path.join(folder, "docs"))  # commands write there
    make = [sys.executable, "scripts/make_demo_model.py", "models/demo"]
    if subprocess.run(make, cwd=folder, stdout=subprocess.DEVNULL, check=False).returncode:
        skip("the demo checkpoint cannot be made; try: scripts/setup demo")
    for name, case in MODELS.items():
        config, options = CASES[case]
        config = config | {"max_position_embeddings": 65536, "eos_token_id": list(range(200, config["vocab_size"]))}
        write_model(os.path.join(folder, name), config, **options)
        shutil.copy(os.path.join(folder, name, "config.json"), os.path.join(folder, "models", "stand-in.json"))
    write(folder, "bin/ssh", FAKE_SSH, 0o755)
    write(folder, "keys.txt", "secret\n", 0o600)


def write(folder, name, text, mode=0o644):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(file.name, mode)


def variables(folder):
    """Of a user who has set nothing of MPI, proxies or ktmpi."""
    others = re.compile(r"OMPI_|PMIX_|KTMPI_|SGLANG_|XDG_|OPENAI_|ANTHROPIC_|.*_proxy$", re.I)
    return {name: value for name, value in os.environ.items() if not others.match(name)} | {
        "HOME": os.path.join(folder, "home"), "PATH": os.path.join(folder, "bin") + ":" + os.environ["PATH"],
        "SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR": folder, "PYTHONDONTWRITEBYTECODE": "1"}


# ---- a reader ------------------------------------------------------------------------------------------------------

class Served(Server):
    """What a line that serves has started, at a port that was free."""

    def __init__(self, folder, shell, line):
        super().__init__("", "")
        line = re.sub(r"\s+#\s.*", "", line)
        line = re.sub(r"--port \d+", "", line) + f" --port 0 --url-file {self.url_file}"
        self.command = ["bash", "-c", "\n".join(["cd " + folder, *shell, "exec " + line])]
        self.environment = variables(folder)
        self.on_hosts = "--hostfile" in line

    def ranks(self):
        return [] if self.on_hosts else super().ranks()  # mpirun tells those whom ssh has started


class Reader:
    """Of one document: what the shell was told so far, the servers by the port of the document, all that was printed."""

    def __init__(self, folder, long):
        self.folder, self.long, self.shell, self.servers, self.printed, self.planned = folder, long, [], {}, "", False

    def close(self):
        for port in list(self.servers):
            self.stop(port)

    def stop(self, port):
        server = self.servers.pop(port)
        self.printed += server.log()
        server.stop()

    def begin(self, place):
        USED.add(place)
        for line in BEFORE.get(place, []):
            self.do(line)

    def put_in(self, text):
        for said, here in (SAID if self.long else SAID | SHORTER).items():
            if said in text:
                USED.add(said)
                text = text.replace(said, here)
        return re.sub(r"127\.0\.0\.1:(\d+)", lambda m: self.servers[m[1]].address if m[1] in self.servers else NOBODY, text)

    def do(self, text):
        text = self.put_in(text)
        if text == NEW_SHELL:
            self.shell = []
        elif re.search(r"(^|[ /])ktmpi( serve)? --(?!help)", text):
            port = (re.search(r"--port (\d+)", text) or [None, "30000"])[1]
            if port in self.servers:
                self.stop(port)
            server = Served(self.folder, self.shell, text)
            server.__enter__()
            self.servers[port] = server
        else:
            question = "What is a NUMA node?\n" if re.search(r"(^|/)ktmpi chat", text) else ""
            self.run(["bash", "-c", "\n".join([*self.shell, text])], text, question)
            if re.match(r"(export |\. |[A-Z]+=(\S+|\"[^\"]*\")$)", text):
                self.shell.append(text)

    def run(self, command, text, question=""):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   cwd=self.folder, env=variables(self.folder), start_new_session=True)
        try:
            outputs = process.communicate(question.encode(), timeout=3600 if self.long else 550)
            printed, errors = (b.decode("utf-8", "replace") for b in outputs)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
        self.printed += printed + errors
        self.planned = " plan " in text
        allowed = MAY_LEAVE.get(matching(MAY_LEAVE, text), ())
        assert process.returncode in (0, *allowed), f"left with {process.returncode}:\n{printed}{errors}"
        if said := re.search(r"# (\{.*\})$", text):  # an answer, shown in a comment
            assert json.loads(said[1]).items() <= json.loads(printed).items(), f"printed {printed}"

    def compare(self, shown):
        """Lines of an output: as they are, or with other numbers but for a plan's. Of scripts that are not run, whether
        they say anything that begins so."""
        printed = re.sub(r" +", " ", self.printed)
        logs = "".join(server.log() for server in self.servers.values())
        for line in filter(None, (re.sub(r" +", " ", line).strip() for line in shown.splitlines())):
            pattern = re.sub(r"[0-9a-f]{32}|\d+(\\\.\d+)*", lambda _: r"[0-9a-f.]+", re.escape(line))
            first = line.split(" ")[0]
            near = [other for other in (printed + logs).splitlines() if first in other]
            if line == "..." or of_script(line):
                continue
            assert line in printed or re.search(pattern, logs if self.planned else printed + logs), "\n".join([f"nothing printed '{line}', but:", *near])


def of_script(line):
    said = re.match(r"(setup|demo): (\w+)", line)
    if said:
        with open(os.path.join(ROOT, "scripts", said[1]), encoding="utf-8") as file:
            return re.search(rf"""(say |question=)["']{said[2]}""", file.read())
    return None


# ---- what is only checked ------------------------------------------------------------------------------------------

# What scripts say of options that they pass on, and where those are.
PASSED_ON = {"[ktmpi options": "runtime/config/options.cpp", "[bench scale's options": "launcher/bench_scale.cpp"}


def check_only(folder, text):
    """Scripts and files are there, scripts know their words; documents_test.py holds the options of ktmpi."""
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for call in re.split(r"&&|\|", re.sub(r"\s#\s.*", "", text)):
        words = call.replace("\\\n", " ").split()
        for path in re.findall(r"\$PWD/(\S+)", call):
            assert glob.glob(path, root_dir=folder), f"nothing has made {path}"
        paths = [word for word in words if re.match(r"(scripts|configs)/", word)]
        for path in paths:
            assert os.path.exists(os.path.join(ROOT, path)), f"there is no {path}"
        if not paths or words[0] != paths[0]:
            continue
        assert os.access(os.path.join(ROOT, paths[0]), os.X_OK), f"{paths[0]} cannot be executed"
        known = " ".join(f"{area}_tests" for area in os.listdir(os.path.join(ROOT, "tests")))  # targets of scripts/build
        for file in (paths[0], "scripts/dependencies.txt"):
            with open(os.path.join(ROOT, file), encoding="utf-8") as words_of:
                known += words_of.read()
        for said, source in PASSED_ON.items():
            if said in known:
                with open(os.path.join(ROOT, source), encoding="utf-8") as options:
                    known += "".join(f"--{name} " for name in re.findall(r'[({](?:\.name = )?"([a-z-]+)', options.read()))
        for word in re.findall(r"(?<!\S)(?:--)?[a-z][\w-]*(?!\S)", " ".join(words[1:])):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", known), f"{paths[0]} does not know {word}"


def check_data(kind, text):
    {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}[kind](text)


# ---- all of it -----------------------------------------------------------------------------------------------------

USED = set()  # rows of the tables


def matching(table, words):
    found = next((pattern for pattern in table if re.search(pattern, words)), None)
    USED.add(found)
    return found


def has_matplotlib():
    return subprocess.run(["/usr/bin/python3", "-c", "import matplotlib"], capture_output=True, check=False).returncode == 0


def steps_of(document):
    with open(os.path.join(ROOT, document), encoding="utf-8") as file:
        return list(steps(document, file.read()))


def follow(reader, step):
    if step.kind in ("json", "toml", "yaml"):
        check_data(step.kind, step.text)
    elif step.kind == "file":
        pass  # written before anything is run
    elif step.kind == "shown":
        reader.compare(step.text)
    elif row := matching(NOT_RUN, f"{step.document}: {step.text}"):
        ast.parse(step.text) if step.kind == "python" else check_only(reader.folder, reader.put_in(step.text))
        for instead in NOT_RUN[row][1]:
            reader.do(instead)
    elif step.kind == "python":
        reader.run([sys.executable, "-c", reader.put_in(step.text)], step.text)
    else:
        assert step.kind in ("sh", "span"), f"nobody knows how to follow a block of {step.kind}"
        if re.search(DRAWN, step.text) and not (reader.long and has_matplotlib()):
            check_only(reader.folder, reader.put_in(step.text))
        else:
            reader.do(step.text)


def read(document, folder, long):
    """Follows a document to its end, whatever fails; returns what failed."""
    path = steps_of(document)
    reader, section, failed = Reader(folder, long), None, []
    try:
        reader.begin(document)
        for step in path:
            start = time.monotonic()
            try:
                if step.section != section:
                    section = step.section
                    reader.begin(f"{document}#{section}")
                follow(reader, step)
            except (AssertionError, ValueError, SyntaxError, subprocess.TimeoutExpired) as error:
                failed.append(f"{step}\n{error}")
                print("FAILED", failed[-1])
            print(f"{time.monotonic() - start:5.1f} s  {step}", flush=True)
    finally:
        reader.close()
    return failed


def blocks_of(document):
    """What is the same in every language: of blocks the kind, the name and the text without comments."""
    return [(step.kind, step.name, re.sub(r"\s+# .*", "", step.text)) for step in steps_of(document) if step.kind != "span"]


def unused_rows():
    return [f"nothing needs the row {row}" for row in [*SAID, *SHORTER, *NOT_RUN, *MAY_LEAVE, *BEFORE] if row not in USED]


def has_large_numbers(document):
    return any(re.search(DRAWN, step.text) or any(said in step.text for said in SHORTER) for step in steps_of(document))


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left

    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--long", action="store_true", help="the numbers as they are, of documents that have large ones, and drawings")
    parser.add_argument("--only", help="this document alone")
    a = parser.parse_args()
    program = need_program(a.program)
    documents = ["README.md", "docs/quickstart.md", "CONTRIBUTING.md"]
    documents += sorted(os.path.relpath(os.path.join(at, name), ROOT) for at, _, names in os.walk(os.path.join(ROOT, "docs"))
                        for name in names if name.endswith(".md"))
    failed = [f"{name}: its blocks are not those of {of}" for name, of in TRANSLATIONS.items() if blocks_of(name) != blocks_of(of)]
    with tempfile.TemporaryDirectory(prefix="ktmpi_documents_") as folder:
        lay_out(folder, program)
        for document in dict.fromkeys(documents):
            for step in steps_of(document):
                if step.kind == "file":
                    write(folder, step.name, step.text)
        for document in dict.fromkeys(documents):
            if a.only not in (None, document) or document in TRANSLATIONS or (a.long and not has_large_numbers(document)):
                continue
            failed += read(document, folder, a.long)
    failed += [] if a.only or a.long else unused_rows()
    print("\n".join([f"FAILED {failure}" for failure in failed] + [f"documents_commands_test: {len(failed)} failures"]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
