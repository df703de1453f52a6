#!/usr/bin/env python3
"""ktmpi bench step on made-up weights: bench_step_test.py KTMPI MPIRUN."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

KTMPI, MPIRUN = sys.argv[1], sys.argv[2]
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_plm_rsh_agent": "/bin/false", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
LAYERS, TOP_K, CACHED_DIM, INDEX_DIM = 6, 64, 160, 128  # of the model below, two layers dense
CONFIG = {
    "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32", "hidden_act": "silu",
    "hidden_size": 256, "num_hidden_layers": LAYERS, "vocab_size": 512, "max_position_embeddings": 4096,
    "num_attention_heads": 4, "q_lora_rank": 128, "kv_lora_rank": 128, "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32, "v_head_dim": 64, "index_n_heads": 8, "index_head_dim": INDEX_DIM, "index_topk": TOP_K,
    "first_k_dense_replace": 2, "intermediate_size": 512, "moe_intermediate_size": 128, "n_routed_experts": 16,
    "n_shared_experts": 1, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "eos_token_id": 1}


class BenchStep(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        with open(os.path.join(cls.folder.name, "config.json"), "w", encoding="utf-8") as file:
            json.dump(CONFIG, file)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def run_bench(self, *options, ranks=1):
        launch = [MPIRUN, "-np", str(ranks), "--oversubscribe", "--bind-to", "none"] if ranks > 1 else []
        return subprocess.run([*launch, KTMPI, "bench", "step", "--model", self.folder.name, "--load-format", "dummy",
                               *options], capture_output=True, text=True, timeout=100,
                              env={**os.environ, **ENVIRONMENT})

    def lines(self, *options, ranks=1):
        answer = self.run_bench(*options, ranks=ranks)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        return [json.loads(line) for line in answer.stdout.splitlines()]

    def parts(self, rank):
        return {(part["part"], part["layer"]): part for part in rank["parts"]}

    def test_a_prompt_gives_a_line_of_prefill_and_one_of_decode(self):
        prefill, decode = self.lines("--prompt", "100", "--decode", "5", "--batch", "2")

        self.assertEqual((prefill["phase"], prefill["prompt"], prefill["batch"]), ("prefill", 100, 2))
        self.assertAlmostEqual(prefill["ttft_ms"] * prefill["tokens_per_s"], 200e3, delta=200)
        self.assertEqual((decode["phase"], decode["context"], decode["steps"]), ("decode", 100, 5))
        self.assertAlmostEqual(decode["ms_per_token"] * decode["tokens_per_s"], 2000, delta=20)
        for line in (prefill, decode):
            parts = self.parts(line["ranks"][0])
            self.assertEqual(set(parts), {("mixer", "mla"), ("dense", "dense"), ("router", "moe"), ("shared", "moe"),
                                          ("experts", "moe"), ("reduce", ""), ("head", ""), ("other", "")})
        spent = sum(part["ms"] for part in prefill["ranks"][0]["parts"])
        self.assertLessEqual(spent, prefill["ttft_ms"] * 1.001)

    def test_parts_name_the_bytes_of_weights(self):
        decode = self.lines("--context", "10", "--decode", "3")[0]

        parts = self.parts(decode["ranks"][0])
        inter, hidden = CONFIG["moe_intermediate_size"], CONFIG["hidden_size"]
        expert_mb = 3 * inter * hidden * 2 / 1e6
        moe_layers = LAYERS - CONFIG["first_k_dense_replace"]
        self.assertAlmostEqual(parts["experts", "moe"]["mb"], moe_layers * 4 * expert_mb, places=3)
        self.assertAlmostEqual(parts["shared", "moe"]["mb"], moe_layers * expert_mb, places=3)
        self.assertAlmostEqual(parts["head", ""]["mb"], 512 * hidden * 2 / 1e6, places=3)

    def test_beyond_top_k_only_the_indexers_keys_grow_with_the_context(self):
        short, long = self.lines("--context", "1000,3000", "--decode", "2")

        row = LAYERS * 2 / 1e6
        for line, context in ((short, 1000), (long, 3000)):
            self.assertFalse(line["context_computed"])
            self.assertAlmostEqual(line["picked_rows_mb"], TOP_K * CACHED_DIM * row, places=3)
            self.assertAlmostEqual(line["index_keys_mb"], (context + 1) * INDEX_DIM * row, places=3)

        dense = self.lines("--context", "1000", "--decode", "2", "--no-indexer")[0]
        self.assertFalse(dense["indexer"])
        self.assertNotIn("index_keys_mb", dense)

    def test_every_rank_tells_where_its_time_went(self):
        prefill, decode = self.lines("--prompt", "70", "--decode", "4", ranks=3)

        for line in (prefill, decode):
            roles = [rank["role"] for rank in line["ranks"]]
            self.assertEqual(roles, ["scheduler+trunk", "expert", "expert"])
            trunk, *experts = (self.parts(rank) for rank in line["ranks"])
            self.assertNotIn(("experts", "moe"), trunk)
            self.assertIn(("wait", "moe"), trunk)
            for parts in experts:
                self.assertEqual(set(parts), {("experts", "moe"), ("wait", "moe"), ("other", "")})
        traffic = [self.parts(rank)["experts", "moe"]["mb"] for rank in decode["ranks"][1:]]
        self.assertAlmostEqual(traffic[0], traffic[1], places=3)  # each has half of every expert

    def test_a_model_can_be_cut(self):
        line = self.lines("--context", "10", "--decode", "1", "--layers", "2", "--experts", "8")[0]

        self.assertEqual((line["layers"], line["experts"]), (2, 8))
        parts = self.parts(line["ranks"][0])  # the first layer is dense, the last is not
        self.assertIn(("dense", "dense"), parts)
        self.assertIn(("experts", "moe"), parts)

    def test_two_ways_of_the_same_steps_are_measured_by_turns(self):
        off, on = self.lines("--context", "100", "--decode", "3", "--rounds", "2", "--compare", "recorder")
        self.assertEqual([line["recording"] for line in (off, on)], [False, True])
        self.assertEqual([line["steps"] for line in (off, on)], [6, 6])

        lines = self.lines("--prompt", "70", "--decode", "1", "--compare", "paths",
                           "--kt-gpu-prefill-token-threshold", "auto", ranks=2)
        hybrid, layerwise = (line for line in lines if line["phase"] == "prefill")
        self.assertEqual((hybrid["path"], layerwise["path"]), ("hybrid", "layerwise"))
        self.assertEqual(hybrid["chosen"], min((hybrid, layerwise), key=lambda line: line["predicted_ms"])["path"])
        trunk = self.parts(layerwise["ranks"][0])
        self.assertIn(("experts", "moe"), trunk)
        self.assertNotIn(("experts", "moe"), self.parts(hybrid["ranks"][0]))

    def test_what_cannot_be_measured_is_refused(self):
        for options, expected in ((["--prompt", "64,x"], "found 'x'"), (["--prompt", "1"], "expected at least 2"),
                                  (["--decode", "0"], "decode: expected at least 1"),
                                  (["--layers", "99"], "the model has 6"),
                                  (["--experts", "6"], "expected a multiple of 4"),
                                  (["--experts", "4"], "at least 4 of them in 2 of 4 groups"),
                                  (["--prompt", "5000"], "the model for 4096 each"),
                                  (["--context", "64", "--batch", "4", "--max-running-requests", "2"],
                                   "max-running-requests is 2"),
                                  (["--prompts", "64"], "prompts"),
                                  (["--compare", "x"], "expected paths or recorder"),
                                  (["--compare", "paths"], "kt-gpu-prefill-token-threshold auto"),
                                  (["--layers", "2", "--load-format", "auto"], "expected load-format dummy")):
            with self.subTest(options=options):
                answer = self.run_bench(*options)
                self.assertEqual((answer.returncode, answer.stdout), (2, ""), answer.stderr)
                self.assertIn(expected, answer.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
