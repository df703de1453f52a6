#!/usr/bin/env python3
"""ktmpi bench scale and ktmpi simulate: scaling_test.py KTMPI MPIRUN ROOT."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

KTMPI, MPIRUN, ROOT = sys.argv[1], sys.argv[2], sys.argv[3]
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_plm_rsh_agent": "/bin/false", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
LAUNCHER = f"{MPIRUN} -np {{ranks}} --oversubscribe --bind-to none"
LAYERS, EXPERTS, TOP_K, HIDDEN = 2, 16, 4, 256
CONFIG = {"architectures": ["Qwen3MoeForCausalLM"], "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512,
          "max_position_embeddings": 4096, "num_experts": EXPERTS, "num_experts_per_tok": TOP_K,
          "moe_intermediate_size": 256, "eos_token_id": 1}
BOX = "cores: 2\nmemory-gb: 20\nmemory-bandwidth-gbs: 30\ncpu-tflops: 0.5\n"


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, **ENVIRONMENT})


class Scaling(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.write("config.json", json.dumps(CONFIG))
        cls.box = cls.write("box.yaml", BOX)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    @classmethod
    def write(cls, name, text):
        path = os.path.join(cls.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def lines(self, *command):
        answer = run(KTMPI, *command)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        return [json.loads(line) for line in answer.stdout.splitlines()]

    @staticmethod
    def with_defaults(command, options, **defaults):
        """No option may be given twice."""
        left = {f"--{name.replace('_', '-')}": value for name, value in defaults.items()}
        return [*command, *options, *(word for name, value in left.items() if name not in options for word in (name, value))]

    def scale(self, *options):
        return self.with_defaults(["bench", "scale", "--model", self.folder, "--load-format", "dummy"], options,
                                  launcher=LAUNCHER, hardware=self.box, prompt="70", decode="3", rounds="1")

    def simulate(self, *options):
        return self.with_defaults(["simulate", "--model", self.folder], options, hardware=self.box, prompt="70")

    def test_points_are_measured_beside_their_base_and_calibrate_the_twin(self):
        lines = self.lines(*self.scale("--ranks", "2,1", "--batch", "1,3", "--layouts", "slice,expert"))

        self.assertEqual([(line["phase"], line["ranks"], line["layout"], line["batch"]) for line in lines],
                         [(phase, *point) for point in ((1, "slice", 1), (1, "slice", 3), (2, "slice", 1), (2, "slice", 3),
                                                        (2, "expert", 1), (2, "expert", 3))
                          for phase in ("decode", "prefill")])
        for line in lines:
            self.assertEqual((line["nodes"], line["scaling"], line["rounds"]), (1, "strong", 1))
            self.assertGreater(line["predicted_ms"], 0)
            tokens = line["batch"] * (70 if line["phase"] == "prefill" else 1)
            self.assertAlmostEqual(line["tokens_per_s"] * line["ms_median"] / 1e3, tokens, places=2)
            self.assertAlmostEqual(line["speedup"], line["base_ms"] / line["ms_median"], places=2)
            self.assertAlmostEqual(line["efficiency"], line["speedup"] / line["ranks"], places=3)
        measured = self.write("lines.jsonl", "\n".join(map(json.dumps, lines)))

        answer = self.lines(*self.simulate("--calibrate", measured, "--check", measured))
        kinds = [line["kind"] for line in answer]
        self.assertEqual(kinds, ["calibrated"] * 12 + ["calibrated_errors"] + ["check"] * 12 + ["check_errors"] + ["step"] * 2)
        fitted, checked = answer[:12], answer[13:25]
        self.assertEqual([line["error"] for line in fitted], [line["error"] for line in checked])
        self.assertEqual(answer[25]["max_error"], max(abs(line["error"]) for line in checked))
        for line, point in zip(fitted, lines):
            self.assertAlmostEqual(line["predicted_ms"], point["predicted_ms"], delta=0.02 * point["predicted_ms"])

    def test_the_twin_sends_the_bytes_that_ranks_count(self):
        """Slices of every expert: each row goes to both ranks. Whole experts: to those that have one of its experts."""
        for layout, tolerance in (("slice", 1e-6), ("expert", 0.05)):  # few rows: some reach all ranks, which is 4 % more
            lines = self.lines(*self.scale("--ranks", "3", "--batch", "4", "--layouts", layout))
            for line, prefill in zip(lines, (False, True)):
                twin = self.lines(*self.simulate("--world", "3", "--batch", "4", "--expert-layout", layout))[int(prefill)]
                self.assertEqual(twin["phase"], line["phase"])
                self.assertAlmostEqual((twin["out_bytes"] + twin["back_bytes"]) / line["sent_bytes"], 1,
                                       delta=tolerance, msg=(layout, line["phase"]))

    def test_in_weak_scaling_the_batch_grows(self):
        lines = self.lines(*self.scale("--ranks", "1,2", "--batch", "2", "--scaling", "weak"))

        self.assertEqual([(line["ranks"], line["batch"]) for line in lines], [(1, 2), (1, 2), (2, 4), (2, 4)])
        for line in lines[2:]:
            self.assertAlmostEqual(line["speedup"], 2 * line["base_ms"] / line["ms_median"], places=2)

    def test_a_job_that_fails_says_which_and_why(self):
        answer = run(KTMPI, *self.scale("--ranks", "1,2", "--batch", "1", "--experts", "3"))

        self.assertEqual((answer.returncode, answer.stdout), (2, ""))
        self.assertIn("bench scale: 1 rank, batch 1 (strong): the job ended with 2\n", answer.stderr)
        self.assertIn("experts 3: expected a multiple of", answer.stderr)

    def test_what_cannot_be_measured_is_refused(self):
        for options, expected in ((["--ranks", "0"], "ranks: expected numbers of at least 1"),
                                  (["--layouts", "slices"], "layouts: expected some of slice, expert, hybrid, auto"),
                                  (["--transports", "tcp"], "found 'tcp'"), (["--scaling", "up"], "strong, weak"),
                                  (["--rounds", "0"], "rounds: expected 1 to"), (["--prompt", "1"], "prompt: expected 2"),
                                  (["--expert-layout", "slice"], "bench scale has --layouts"),
                                  (["--rank", "2"], "--rank")):
            answer = run(KTMPI, *self.scale(*options))
            self.assertEqual((answer.returncode, answer.stdout), (2, ""), (options, answer.stderr))
            self.assertIn(expected, answer.stderr)
        answer = run(KTMPI, "bench", "scale", "--model", self.folder, "--launcher", "mpirun -np 4")
        self.assertEqual(answer.returncode, 2)
        self.assertIn("expected {ranks} where the number of ranks goes", answer.stderr)

    def test_every_described_cluster_can_be_simulated_for_up_to_64_nodes(self):
        models = os.path.join(ROOT, "configs", "models")
        hardware = os.path.join(ROOT, "configs", "hardware", "4-nodes-8488c.yaml")
        for name in sorted(os.listdir(models)):
            lines = self.lines("simulate", "--model", os.path.join(models, name), "--hardware", hardware, "--device", "cpu",
                               "--nodes", "1,2,4,8,16,32,64", "--batch", "1,32")
            self.assertEqual(len(lines), 7 * 4)
            for phase in ("decode", "prefill"):
                for batch in (1, 32):
                    at = [line for line in lines if (line["phase"], line["batch"]) == (phase, batch)]
                    self.assertEqual([line["nodes"] for line in at], [1, 2, 4, 8, 16, 32, 64])
                    self.assertEqual([line["ranks"] for line in at], [1 + 2 * line["nodes"] for line in at])
                    for fewer, more in zip(at, at[1:]):
                        self.assertLessEqual(more["expert_bytes_of_node"], fewer["expert_bytes_of_node"])
                        self.assertLessEqual(more["experts_ms"], fewer["experts_ms"] * 1.0001)
                        self.assertGreaterEqual(more["out_bytes"], fewer["out_bytes"])
                    for line in at:
                        self.assertLessEqual(line["trunk_ms"] + line["experts_ms"], line["ms"] * 1.0001)

    def test_a_recording_makes_the_slowest_rank_slower(self):
        uneven = [[e % 2 * 9 + 1 for e in range(EXPERTS)] for _ in range(LAYERS)]
        trace = self.write("counts.json", json.dumps({"ktmpi_expert_counts": 1, "layers": LAYERS, "experts": EXPERTS,
                                                      "counts": uneven}))
        shape = ["--world", "3", "--expert-layout", "expert"]
        even, recorded, skewed = (self.lines(*self.simulate(*shape, *options))[1]
                                  for options in ([], ["--trace", trace], ["--skew", "1"]))

        self.assertGreater(recorded["experts_ms"], 1.2 * even["experts_ms"])
        self.assertGreaterEqual(skewed["imbalance"], even["imbalance"])

    def test_what_cannot_be_simulated_is_refused(self):
        wrong = self.write("wrong.jsonl", '{"phase": "decode", "batch": 1}\n')
        other = self.write("other.json", json.dumps({"ktmpi_expert_counts": 1, "layers": 1, "experts": 1, "counts": [[1]]}))
        slow = self.write("slow.yaml", "memory-gb: 1\n")
        for options, expected in ((["--nodes", "0"], "nodes: expected numbers of at least 1"),
                                  (["--batch", "x"], "batch: expected numbers"), (["--skew", "-1"], "skew: expected"),
                                  (["--skew", "1", "--trace", other], "give one"),
                                  (["--trace", other], "trace: expected counts of 2 layers of 16 experts, found 1 of 1"),
                                  (["--check", wrong], "check: nothing is calibrated"),
                                  (["--calibrate", wrong], "wrong.jsonl:1: expected a line of bench step or bench scale"),
                                  (["--calibrate", "none.jsonl"], "none.jsonl: this file cannot be read"),
                                  (["--hardware", slow], "not known: memory-bandwidth-gbs, cpu-tflops"),
                                  (["--layers", "9"], "layers 9: the model has 2"), (["--world", "7", "--kt-threadpool-count", "2"], "valid"),
                                  (["--node", "2"], "--node")):
            answer = run(KTMPI, *self.simulate(*options))
            self.assertEqual((answer.returncode, answer.stdout), (2, ""), (options, answer.stderr))
            self.assertIn(expected, answer.stderr)
        answer = run(KTMPI, "simulate", "--model", self.folder)
        self.assertEqual(answer.returncode, 2)
        self.assertIn("--hardware is required", answer.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
