#!/usr/bin/env python3
"""A start that cannot succeed says why, once, and mpirun leaves with the documented exit code, whichever rank knows the
reason and whichever leaves first: bad_start_test.py KTMPI MPIRUN [ROUNDS]."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from ktmpi_server import environment  # noqa: E402

KTMPI, MPIRUN, ROUNDS = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3
RANKS = 3


def start(arguments, special_rank=-1, special=None, late_rank=-1):
    """A job of which one rank gets other arguments, or comes two seconds late."""
    script = f'''
        case $OMPI_COMM_WORLD_RANK in {late_rank}) sleep 2;; esac
        case $OMPI_COMM_WORLD_RANK in
          {special_rank}) exec {KTMPI} {special or arguments};;
          *) exec {KTMPI} {arguments};;
        esac'''
    return subprocess.run([MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", str(RANKS), "sh", "-c", script],
                          capture_output=True, text=True, timeout=120, env=environment())


class BadStarts(unittest.TestCase):
    def check(self, code, reason, *arguments, rounds=ROUNDS, **how):
        for round_ in range(rounds):
            answer = start(*arguments, **how)
            self.assertEqual(answer.returncode, code, f"round {round_}: {answer.stderr}")
            self.assertEqual(answer.stderr.count(reason), 1, f"round {round_}: {answer.stderr}")

    def test_an_unknown_option_is_said_once(self):
        self.check(2, "unknown option --prot; the nearest one is --port", "--model m --prot 1")

    def test_the_rank_that_knows_the_reason_may_come_last(self):
        for late in (0, RANKS - 1):
            self.check(2, "unknown option --prot; the nearest one is --port", "--model m --prot 1", rounds=1,
                       late_rank=late)
            self.check(2, "unknown command 'sevre'", "sevre", rounds=1, late_rank=late)

    def test_only_one_rank_may_know_the_reason(self):
        for rank in range(RANKS):
            self.check(2, "port: expected a whole number from 0 to 65535, found 'x'", "--model m", rounds=1,
                       special_rank=rank, special="--model m --port x")

    def test_a_model_that_cannot_be_read_is_64(self):
        self.check(64, "/nonexistent: there is no such folder", "--model /nonexistent --port 0")

    def test_a_model_that_one_rank_cannot_read_is_64(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
                json.dump({"architectures": ["NobodysForCausalLM"]}, file)
            self.check(64, "/nonexistent", f"--model {folder}", rounds=1, special_rank=0, special="--model /nonexistent")
            self.check(64, "NobodysForCausalLM", f"--model {folder}", late_rank=1, rounds=1)

    def test_a_world_that_fits_nothing_is_2(self):
        with tempfile.TemporaryDirectory() as folder:
            self.check(2, "3 ranks for tensor-parallel-size 7: too few", f"--model {folder} --tensor-parallel-size 7")

    def test_bench_step_says_it_too(self):
        self.check(2, "decode: expected at least 1", "bench step --model m --decode 0", rounds=1, late_rank=0)
        self.check(2, "unknown option --prot", "bench step --model m --prot 0", rounds=1, late_rank=1)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
