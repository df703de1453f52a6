#!/usr/bin/env python3
"""ktmpi bench serve against a small endpoint: bench_serve_test.py KTMPI."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

from chat_endpoint import Endpoint

KTMPI = sys.argv[1]
COMPLETIONS = "/v1/completions"


def bench(endpoint, *options):
    return subprocess.run([KTMPI, "bench", "serve", "--url", endpoint.url, *options], capture_output=True, text=True,
                          timeout=100)


class BenchServe(unittest.TestCase):
    def setUp(self):
        self.endpoint = Endpoint()

    def result(self, *options):
        answer = bench(self.endpoint, *options)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertEqual(answer.stdout.count("\n"), 1)
        return json.loads(answer.stdout)

    def test_reports_the_figures_of_vllm(self):
        self.endpoint.token_s = 0.004
        out = self.result("--num-prompts", "20", "--random-input-len", "12", "--random-output-len", "11",
                          "--max-concurrency", "4")

        self.assertEqual((out["completed"], out["failed"], out["num_prompts"], out["max_concurrency"]), (20, 0, 20, 4))
        self.assertEqual((out["total_input_tokens"], out["total_output_tokens"]), (240, 220))
        self.assertEqual(out["model_id"], "fake-model")
        self.assertEqual(out["request_rate"], "inf")
        for name in ("ttft", "tpot", "itl", "e2el"):
            for statistic in ("mean", "median", "std", "p99"):
                self.assertGreaterEqual(out[f"{statistic}_{name}_ms"], 0)
            self.assertGreaterEqual(out[f"p99_{name}_ms"], out[f"median_{name}_ms"])
        self.assertGreaterEqual(out["mean_tpot_ms"], 4)  # a token takes the endpoint that long
        self.assertGreaterEqual(out["mean_e2el_ms"], 44)
        self.assertAlmostEqual(out["mean_tpot_ms"] * 10 + out["mean_ttft_ms"], out["mean_e2el_ms"], delta=0.01)
        self.assertAlmostEqual(out["output_throughput"] * out["duration"], 220, delta=0.01)
        self.assertAlmostEqual(out["total_token_throughput"] * out["duration"], 460, delta=0.01)
        self.assertAlmostEqual(out["request_throughput"] * out["duration"], 20, delta=0.01)

    def test_prompts_are_random_ordinary_tokens_and_the_seed_repeats_them(self):
        prompts = []
        for seed in ("1", "1", "2"):
            self.endpoint.seen.clear()
            self.result("--num-prompts", "3", "--random-input-len", "50", "--random-output-len", "2", "--seed", seed)
            bodies = self.endpoint.posts(COMPLETIONS)
            self.assertEqual(len(bodies), 4)  # one to warm up
            for body in bodies:
                self.assertEqual((len(body["prompt"]), body["max_tokens"], body["ignore_eos"]), (50, 2, True))
                self.assertTrue(all(100 <= token < 4100 for token in body["prompt"]))  # what /tokenize has said
            prompts.append(sorted(body["prompt"] for body in bodies))
        self.assertEqual(prompts[0], prompts[1])
        self.assertNotEqual(prompts[0], prompts[2])

    def test_a_closed_loop_keeps_its_limit_and_an_open_loop_its_rate(self):
        self.endpoint.token_s = 0.02
        options = ("--num-prompts", "30", "--random-input-len", "4", "--random-output-len", "5")
        closed = self.result(*options, "--max-concurrency", "3")
        self.assertEqual((self.endpoint.most_open, closed["max_concurrent_requests"]), (3, 3))

        at_once = self.result(*options)
        self.assertEqual(at_once["max_concurrent_requests"], 30)

        rate = self.result(*options, "--request-rate", "20")
        self.assertEqual(rate["request_rate"], 20)
        self.assertGreater(rate["duration"], 0.5)  # about 29/20 s; the seed is fixed
        self.assertLess(rate["max_concurrent_requests"], 30)

    def test_failures_are_counted_and_said(self):
        self.endpoint.refuse_every = 3
        answer = bench(self.endpoint, "--num-prompts", "9", "--max-concurrency", "1", "--random-input-len", "4",
                       "--random-output-len", "2", "--num-warmups", "0")
        out = json.loads(answer.stdout)

        self.assertEqual((answer.returncode, out["completed"], out["failed"]), (0, 6, 3))
        self.assertEqual(out["total_output_tokens"], 12)
        self.assertIn("3 requests failed: 429: too many requests", answer.stderr)

    def test_nothing_complete_is_an_error(self):
        self.endpoint.refuse_every = 1
        answer = bench(self.endpoint, "--num-prompts", "2", "--num-warmups", "0")
        out = json.loads(answer.stdout)

        self.assertEqual((answer.returncode, out["completed"], out["mean_ttft_ms"]), (75, 0, None))
        self.assertEqual(bench(self.endpoint, "--num-prompts", "2").returncode, 75)  # already the first request

    def test_conversations_of_a_file_give_prompts_and_lengths(self):
        talks = [{"conversations": [{"from": "human", "value": f"question {i} of some words"},
                                    {"from": "gpt", "value": "an answer of six words " + "x " * i}]} for i in range(5)]
        unusable = [{"conversations": []}, {}, {"conversations": [{"value": "too"}, {"value": "short"}]},
                    {"conversations": [{"value": "w " * 1025}, {"value": "long question of many"}]}]
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "talks.json")
            with open(file, "w", encoding="utf-8") as out:
                json.dump(unusable + talks, out)
            self.result("--dataset-path", file, "--num-prompts", "4", "--num-warmups", "1")
            asked = {body["prompt"]: (body["max_tokens"], body["ignore_eos"]) for body in self.endpoint.posts(COMPLETIONS)}
            few = bench(self.endpoint, "--dataset-path", file, "--num-prompts", "6")

        self.assertEqual(asked, {f"question {i} of some words": (5 + i, False) for i in range(5)})
        self.assertEqual(few.returncode, 2)
        self.assertIn("5 conversations can be used, 7 prompts are asked for", few.stderr)

    def test_mistakes_are_usage_errors(self):
        for options in (("--num-prompts", "0"), ("--request-rate", "0"), ("--request-rate", "-1"),
                        ("--request-rate", "x"), ("--max-concurrency", "-1"), ("--dataset-path", "/nonexistent")):
            self.assertEqual(bench(self.endpoint, *options).returncode, 2, options)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
