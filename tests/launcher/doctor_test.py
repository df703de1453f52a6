#!/usr/bin/env python3
"""What ktmpi doctor finds, prints and exits with, alone and on several ranks: doctor_test.py KTMPI MPIRUN."""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from ktmpi_server import ROOT, environment  # noqa: E402

KTMPI, MPIRUN = sys.argv[1], sys.argv[2]
FIXTURES = os.path.join(os.environ.get("KTMPI_SHARED", os.path.join(ROOT, "..", "shared")), "fixtures", "models")
MODEL = os.path.join(FIXTURES, "qwen3_moe-bf16")
AREAS = ["kernels", "cores", "numa", "clock", "memory", "huge pages", "bandwidth", "limits", "shared memory", "mpi",
         "network", "gpus", "hugging face", "chat engine", "port"]


def run(*command, **variables):
    # Under a sanitizer what Python and Open MPI keep until the end is no matter of ours.
    more = {"ASAN_OPTIONS": "detect_leaks=0", **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**environment(), **more})


WITHOUT_UCX = "no UCX" in run(KTMPI, "version").stdout


def doctor(*options, **variables):
    return run(KTMPI, "doctor", "--port", "0", *options, **variables)


def of_area(findings, area):
    return [f for f in findings if f["area"] == area]


class Doctor(unittest.TestCase):
    def report(self, *options, **variables):
        answer = doctor("--json", *options, **variables)
        self.assertEqual(answer.stdout.count("\n"), 1, answer.stdout + answer.stderr)
        report = json.loads(answer.stdout)
        findings = report["machines"][0]["findings"]
        problems = [f for f in findings if f["severity"] == "problem"]
        self.assertEqual((report["problems"], answer.returncode), (len(problems), 1 if problems else 0))
        for problem in problems:
            self.assertTrue(problem["advice"], problem)
        return findings

    def test_every_area_is_looked_at(self):
        findings = self.report()

        self.assertEqual(list(dict.fromkeys(f["area"] for f in findings)), AREAS)
        self.assertRegex(of_area(findings, "bandwidth")[0]["found"], r"^\d+\.\d GB/s read by \d+ thread")
        self.assertTrue(all(f["severity"] in ("ok", "note", "problem") for f in findings))

    def test_text_has_a_line_for_each_and_the_count_last(self):
        lines = doctor().stdout.splitlines()

        self.assertRegex(lines[0], r"^ktmpi \d")
        self.assertRegex(lines[-1], r"^\d+ problems?, \d+ notes?$")
        self.assertEqual(sum(line[:9].strip() in ("ok", "note", "problem") for line in lines[2:]), len(self.report()))

    def test_a_taken_port_is_a_problem_and_printed_last(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
            answer = run(KTMPI, "doctor", "--port", port)

        self.assertEqual(answer.returncode, 1, answer.stdout)
        lines = answer.stdout.splitlines()
        self.assertRegex(lines[-4], rf"^problem  port +port {port} of 127.0.0.1: cannot listen")
        self.assertIn("do: stop the program that has it", lines[-3])

    def test_a_lesser_table_is_a_note_and_an_unknown_one_a_problem(self):
        lesser = of_area(self.report(KTMPI_ISA="ref"), "kernels")[0]
        self.assertEqual(lesser["severity"], "note")
        self.assertIn("ref, as KTMPI_ISA says", lesser["found"])
        self.assertEqual(of_area(self.report(KTMPI_ISA="z80"), "kernels")[0]["severity"], "problem")

    def test_a_folder_that_is_no_model_says_so_once(self):
        with tempfile.TemporaryDirectory() as folder:
            findings = self.report("--model", folder)

        self.assertEqual(findings[-1]["area"], "config")
        self.assertIn("config.json is missing", findings[-1]["found"])
        self.assertEqual(findings[-1]["advice"], "--model takes the folder of a checkpoint")

    def test_what_a_config_alone_lacks_is_named_by_area(self):
        findings = self.report("--model", os.path.join(ROOT, "configs", "models", "qwen3-coder-next-fp8"))

        for area, expected in (("config", "ok"), ("weights", "problem"), ("tokenizer", "problem"), ("template", "note")):
            self.assertEqual([f["severity"] for f in of_area(findings, area)], [expected], findings)

    def test_wrong_options_are_2(self):
        self.assertEqual(doctor("--transport", "mpi").stderr, "")  # no model is needed for the others
        for options, reason in ((["--prot", "1"], "unknown option --prot; the nearest one is --port"),
                                (["--json=1"], "ktmpi doctor --help lists the options"),
                                (["--port", "70000"], "--port: expected a whole number from 0 to 65535")):
            answer = run(KTMPI, "doctor", *options)
            self.assertEqual((answer.returncode, answer.stdout), (2, ""))
            self.assertIn(reason, answer.stderr)
        self.assertIn("--cluster", run(KTMPI, "doctor", "--help").stdout)

    @unittest.skipUnless(os.path.isdir(MODEL), f"{MODEL} is not there")
    def test_a_checkpoint_is_looked_at_and_a_cut_file_found(self):
        findings = self.report("--model", MODEL)
        for area in ("config", "weights", "fit", "tokenizer"):
            self.assertEqual({f["severity"] for f in of_area(findings, area)}, {"ok"}, of_area(findings, area))
        self.assertRegex(of_area(findings, "fit")[1]["found"], r"valid on 1 machine: 1, 2, 3")

        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(MODEL, os.path.join(folder, "model"))
            shard = sorted(f for f in os.listdir(copy) if f.endswith(".safetensors"))[-1]
            os.chmod(os.path.join(copy, shard), 0o600)
            os.truncate(os.path.join(copy, shard), os.path.getsize(os.path.join(copy, shard)) - 1)
            cut = of_area(self.report("--model", copy), "weights")
        self.assertEqual(cut[0]["severity"], "problem")
        self.assertIn(shard, cut[0]["found"])


class Job(unittest.TestCase):
    # Two machines: ranks 0 and 2, rank 1.
    SCRIPT = 'export KTMPI_NODE=$((OMPI_COMM_WORLD_RANK % 2)); program={program}; {more}\n' \
             'exec $program doctor --cluster --port 0 {options}'

    @classmethod
    def start(cls, options, more=""):
        return run(MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", "3", "sh", "-c",
                   cls.SCRIPT.format(program=KTMPI, options=options, more=more))


class Cluster(Job):
    def test_each_machine_is_printed_once_with_what_is_between_them(self):
        answer = self.start("--json")
        report = json.loads(answer.stdout)

        self.assertEqual([m["ranks"] for m in report["machines"]], [[0, 2], [1]])
        self.assertTrue(report["machines"][1]["host"].endswith(", node 1"))
        for machine, areas in zip(report["machines"], (AREAS, [a for a in AREAS if a not in ("port", "chat engine")])):
            self.assertEqual(list(dict.fromkeys(f["area"] for f in machine["findings"])), areas)
        between = [f["found"] for f in report["between"]]
        for words in ("alike on all ranks: version, kernels", "every rank reaches rank 0 by TCP",
                      "messages between rank 0 and another machine", "clocks are within"):
            self.assertTrue(any(found.startswith(words) for found in between), between)
        self.assertEqual(answer.returncode, 1 if report["problems"] else 0)

    def test_ranks_that_differ_are_a_problem_with_host_and_value(self):
        answer = self.start("", 'export KTMPI_ISA=$([ $OMPI_COMM_WORLD_RANK = 1 ] && echo ref || echo avx2)')

        self.assertEqual(answer.returncode, 1, answer.stderr)
        self.assertRegex(answer.stdout, r"problem  cluster  kernels: avx2 on .*, node 0 \(ranks 0, 2\), ref on .*, node 1 \(rank 1\)\n")
        self.assertRegex(answer.stdout.splitlines()[-1], r"^\d+ problems? \((.*, )?between ranks\), \d+ notes?$")
        # What the first machine says too is counted and not repeated.
        second = re.search(r"\n.*, node 1: rank 1; (\d+) findings as on .*, node 0\n((.+\n)*)", answer.stdout)
        self.assertIsNotNone(second, answer.stdout)
        self.assertGreater(int(second[1]), 8)
        self.assertNotIn(" gpus ", second[2])
        self.assertIn(" kernels ", second[2])

    @unittest.skipIf(WITHOUT_UCX, "built without UCX")
    def test_messages_are_timed_by_the_transport_that_ranks_would_have(self):
        for options, name in (("", "UCX"), ("--transport mpi", "MPI")):
            between = json.loads(self.start(f"--json {options}").stdout)["between"]
            self.assertEqual([f for f in between if f["severity"] == "problem"], [])
            self.assertTrue(any(f"another machine, by {name}: " in f["found"] for f in between), between)

    def test_several_ranks_without_cluster_are_refused_once(self):
        answer = run(MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", "2", KTMPI, "doctor")

        self.assertEqual(answer.returncode, 2)
        self.assertEqual(answer.stderr.count("--cluster makes one report of them"), 1, answer.stderr)


class OddMachine(Job):
    """A job whose second machine has another version, lesser limits, no model and an interface too little."""

    @classmethod
    def setUpClass(cls):
        with open(KTMPI, "rb") as file:
            program = file.read()
        cls.version = run(KTMPI, "version").stdout.split()[1]
        cls.other = str((int(cls.version[0]) + 1) % 10) + cls.version[1:]
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "ktmpi")
            with open(copy, "wb") as file:
                file.write(program.replace(cls.version.encode() + b"\0", cls.other.encode() + b"\0"))
            os.chmod(copy, 0o755)
            answer = cls.start("--json --transport $transport --model ${model-" + MODEL + "}", f"""
                transport={'mpi' if WITHOUT_UCX else 'ucx'}
                if [ $KTMPI_NODE = 1 ]; then
                  program={copy} model=/absent
                  ulimit -n 256
                  export UCX_NET_DEVICES=absent0
                fi""")
        cls.code, cls.report = answer.returncode, json.loads(answer.stdout)
        cls.machine = cls.report["machines"][1]
        cls.name = cls.machine["host"] + " (rank 1)"

    def between(self, severity):
        return [f["found"] for f in self.report["between"] if f["severity"] == severity]

    def test_the_code_is_1_and_each_finding_says_what_to_do(self):
        self.assertEqual(self.code, 1)
        for finding in [f for m in self.report["machines"] for f in m["findings"]] + self.report["between"]:
            self.assertTrue(finding["severity"] == "ok" or finding.get("advice"), finding)

    def test_the_version_is_named_with_its_host(self):
        found = [words for words in self.between("problem") if words.startswith(f"version: {self.version} on ")]

        self.assertEqual(len(found), 1, self.report["between"])
        self.assertTrue(found[0].endswith(f", {self.other} on {self.name}"), found)

    def test_lesser_limits_are_a_note_with_their_host(self):
        self.assertIn("at most 256 open files", of_area(self.machine["findings"], "limits")[0]["found"])
        notes = [words for words in self.between("note") if words.startswith("open files: ")]
        self.assertEqual(len(notes), 1, self.report["between"])
        self.assertTrue(notes[0].endswith(f", 256 on {self.name}"), notes)

    @unittest.skipUnless(os.path.isdir(MODEL), f"{MODEL} is not there")
    def test_a_folder_that_is_not_there_is_named_with_its_host(self):
        self.assertEqual(self.machine["findings"][-1]["found"], "/absent: there is no such folder")
        self.assertIn(f"the model's folder is not there, or is empty, on {self.name}", self.between("problem"))

    def test_an_interface_that_is_not_there_is_named_by_its_machine(self):
        found = of_area(self.machine["findings"], "network")[-1]
        self.assertEqual(found["severity"], "note" if WITHOUT_UCX else "problem")
        self.assertTrue(found["found"].startswith("UCX_NET_DEVICES names absent0, which this machine"), found)
        self.assertIn("lo", found["advice"])
        ways = [words for words in self.between("problem") if "no way to rank 1: " in words]
        self.assertEqual(len(ways), 0 if WITHOUT_UCX else 1, self.report["between"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
