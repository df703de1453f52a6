#!/usr/bin/env python3
"""What ktmpi doctor finds, prints and exits with, alone and on several ranks: doctor_test.py KTMPI MPIRUN."""
import json
import os
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


class Cluster(unittest.TestCase):
    # Two machines: ranks 0 and 2, rank 1.
    SCRIPT = 'KTMPI_NODE=$((OMPI_COMM_WORLD_RANK % 2)) {more} exec ' + KTMPI + ' doctor --cluster --port 0 {options}'

    def start(self, options, more=""):
        return run(MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", "3", "sh", "-c",
                   self.SCRIPT.format(options=options, more=more))

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
        answer = self.start("", 'KTMPI_ISA=$([ $OMPI_COMM_WORLD_RANK = 1 ] && echo ref || echo avx2)')

        self.assertEqual(answer.returncode, 1, answer.stderr)
        self.assertRegex(answer.stdout, r"problem  cluster  kernels: avx2 on .*, node 0 \(ranks 0, 2\), ref on .*, node 1 \(rank 1\)\n")

    def test_several_ranks_without_cluster_are_refused_once(self):
        answer = run(MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", "2", KTMPI, "doctor")

        self.assertEqual(answer.returncode, 2)
        self.assertEqual(answer.stderr.count("--cluster makes one report of them"), 1, answer.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
