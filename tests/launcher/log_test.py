#!/usr/bin/env python3
"""The lines of the log, as text and as JSON, of all ranks: log_test.py KTMPI MPIRUN."""
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

KTMPI, MPIRUN = sys.argv[1], sys.argv[2]
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_plm_rsh_agent": "/bin/false", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
CONFIG = {"architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 256, "max_position_embeddings": 2048, "num_experts": 8,
          "num_experts_per_tok": 2, "moe_intermediate_size": 64, "eos_token_id": 1}
TEXT = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ([EWID]) \[r(\d)( [a-z+]+[a-z0-9 ]*)?\] (.+)")


class Log(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        with open(os.path.join(cls.folder.name, "config.json"), "w", encoding="utf-8") as file:
            json.dump(CONFIG, file)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def job(self, *options, ranks=1, code=0):
        """Lines of standard error of a job that makes a few steps."""
        launch = [MPIRUN, "-np", str(ranks), "--oversubscribe", "--bind-to", "none"] if ranks > 1 else []
        done = subprocess.run([*launch, KTMPI, "bench", "step", "--model", self.folder.name, "--load-format", "dummy",
                               "--context", "8", "--decode", "1", *options], capture_output=True, text=True, timeout=100,
                              env={**os.environ, **ENVIRONMENT})
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr.splitlines()

    def test_a_text_line_has_time_level_rank_role_and_message(self):
        lines = self.job("--trust-remote-code", ranks=3)

        found = [TEXT.fullmatch(line).groups() for line in lines if re.match(r"20\d\d-", line)]
        self.assertEqual({(rank, role) for _, rank, role, _ in found},
                         {("0", " scheduler+trunk"), ("1", " expert"), ("2", " expert")})
        self.assertIn(("W", "0", " scheduler+trunk", "command line: trust-remote-code has no effect: no code of a checkpoint "
                       "is ever run"), found)
        self.assertTrue([text for level, _, _, text in found if level == "I" and text.startswith("kernels ")])

    def test_ranks_say_together_what_they_have_loaded(self):
        loaded = [line for line in self.job(ranks=3) if "loaded on 3 ranks: 0.00 GB in " in line]

        self.assertEqual(len(loaded), 1)
        self.assertIn("[r0 scheduler+trunk]", loaded[0])

    def test_each_json_line_is_an_object_whatever_the_message(self):
        lines = [json.loads(line) for line in self.job("--log-format", "json", ranks=3)]

        for line in lines:
            self.assertEqual(list(line), ["time", "level", "rank", "role", "message"])
            self.assertRegex(line["time"], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual({(line["rank"], line["role"]) for line in lines},
                         {(0, "scheduler+trunk"), (1, "expert"), (2, "expert")})
        self.assertTrue([line for line in lines if line["message"].startswith("plan\n")], "of several lines")

    def test_a_level_leaves_out_what_is_less_important(self):
        self.assertEqual(self.job("--log-level", "error", "--trust-remote-code"), [])
        for word in ("warn", "warning"):
            levels = {TEXT.fullmatch(line)[1] for line in self.job("--log-level", word, "--trust-remote-code")}
            self.assertEqual(levels, {"W"})
        self.assertIn("log-level: expected one of error, warn, warning, info, debug", self.job("--log-level", "loud", code=2)[0])

    def test_what_ends_the_start_is_an_object_too(self):
        for options, code, expected in ((["--port", "many"], 2, "port: expected"),
                                        (["--load-format", "auto"], 64, "safetensors")):
            lines = self.job("--log-format", "json", *options, code=code)
            failure = json.loads(lines[-1])
            self.assertEqual(failure["level"], "error")
            self.assertIn(expected, failure["message"])
            for line in lines:
                json.loads(line)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
