#!/usr/bin/env python3
"""Holds scripts/systemd to what it repeats: service_test.py ROOT"""
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv[1])
UNIT = (ROOT / "scripts/systemd/ktmpi.service").read_text()


def settings(key):
    return re.findall(rf"^{key}=(.*)$", UNIT, re.M)


def environment():
    return dict(word.split("=", 1) for line in settings("Environment") for word in shlex.split(line))


class Service(unittest.TestCase):
    def test_mpi_is_set_up_as_mpi_environment_does_it(self):
        shell = (ROOT / "scripts/mpi_environment.sh").read_text()
        wanted = dict(re.findall(r"^export (OMPI_MCA_\w+)=\$\{\1:-(.*)\}$", shell, re.M))

        self.assertGreater(len(wanted), 5)
        self.assertEqual({k: v for k, v in environment().items() if k.startswith("OMPI_")}, wanted)

    def test_faults_of_ranks_are_left_to_ktmpi_up(self):
        self.assertRegex(settings("ExecStart")[0], "^/usr/bin/ktmpi up /usr/bin/mpirun ")
        self.assertEqual(settings("Restart"), ["on-abnormal"])

    def test_a_drain_has_the_time_that_the_options_give_it(self):
        options = (ROOT / "runtime/config/run_config.h").read_text()
        default = float(re.search(r"drain_timeout_s = ([\d.]+)", options)[1])
        yaml = (ROOT / "scripts/systemd/ktmpi.yaml").read_text()
        example = float(re.search(r"^drain-timeout-s: (\d+)", yaml, re.M)[1])

        self.assertEqual((settings("KillSignal"), settings("KillMode")), ([], ["mixed"]))
        self.assertGreater(float(settings("TimeoutStopSec")[0]), max(default, example))

    def test_the_examples_name_options_and_variables_that_there_are(self):
        options = set(re.findall(r'\.name = "([^"]+)"', (ROOT / "runtime/config/options.cpp").read_text()))
        keys = re.findall(r"^(?:# )?([a-z-]+):", (ROOT / "scripts/systemd/ktmpi.yaml").read_text(), re.M)
        variables = re.findall(r"^(\w+)=", (ROOT / "scripts/systemd/ktmpi.env").read_text(), re.M)

        self.assertGreater(len(keys), 3)
        self.assertLessEqual(set(keys), options)
        self.assertEqual(variables, ["RANKS"])
        self.assertIn("-np ${RANKS} ", settings("ExecStart")[0])

    def test_systemd_takes_the_unit(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("systemd-analyze is not there")
        with tempfile.TemporaryDirectory() as folder:
            unit = pathlib.Path(folder, "ktmpi.service")
            unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT, flags=re.M))
            answer = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True,
                                    timeout=60)

        self.assertEqual((answer.returncode, answer.stdout + answer.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
