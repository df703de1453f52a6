#!/usr/bin/env python3
"""What commands print on a terminal, and what with --json or into a pipe: tables_test.py KTMPI MPIRUN."""
import json
import os
import pty
import subprocess
import sys
import tempfile
import unittest

from chat_endpoint import Endpoint

KTMPI, MPIRUN = sys.argv[1], sys.argv[2]
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_plm_rsh_agent": "/bin/false", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
CONFIG = {"architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 256, "max_position_embeddings": 2048, "num_experts": 8,
          "num_experts_per_tok": 2, "moe_intermediate_size": 64, "eos_token_id": 1}
COUNTS = {"ktmpi_expert_counts": 1, "layers": 2, "experts": 4, "counts": [[0, 0, 0, 0], [0, 8, 1, 1]]}


def on_terminal(*command):
    """Exit code and lines of a command whose standard output is a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **ENVIRONMENT}) as process:
        os.close(theirs)
        text = b""
        try:
            while data := os.read(ours, 65536):
                text += data
        except OSError:  # the other side has closed
            pass
        said = process.stderr.read()
    os.close(ours)
    assert process.returncode == 0, said
    return text.decode().replace("\r\n", "\n").splitlines()


def into_a_pipe(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, **ENVIRONMENT})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Tables(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        for name, content in (("config.json", CONFIG), ("counts.json", COUNTS)):
            with open(os.path.join(cls.folder.name, name), "w", encoding="utf-8") as file:
                json.dump(content, file)
        cls.counts = os.path.join(cls.folder.name, "counts.json")
        cls.step = [KTMPI, "bench", "step", "--model", cls.folder.name, "--load-format", "dummy", "--prompt", "70",
                    "--decode", "2", "--served-model-name", "tiny"]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def assert_aligned(self, titles, row, *columns):
        """What stands under each of these titles, of numbers, ends where they end."""
        for column in columns:
            end = titles.index(column) + len(column)
            self.assertNotEqual(row[end - 1], " ", f"{column} in\n{titles}\n{row}")
            self.assertIn(row[end:end + 1], ("", " "), f"{column} in\n{titles}\n{row}")

    def test_placement_shows_layers_and_hit_rates(self):
        lines = on_terminal(KTMPI, "placement", self.counts, "--ratio", "0.25", "--sets")

        layers = lines.index("layer       choices    used  busiest tenth, %  busiest experts     their %")
        self.assertEqual(lines[layers + 1], "    0             0       -                 -  -                   -")
        self.assertEqual(lines[layers + 2], "    1            10       3              80.0  1 2 3 0             80.0 10.0 10.0 0.0")
        hits = next(i for i, line in enumerate(lines) if line.startswith("ratio"))
        self.assert_aligned(lines[hits], lines[hits + 1], "ratio", "hot", "uniform", "frequency")
        self.assertIn("frequency at 0.25:", lines)

    def test_a_terminal_gets_json_lines_where_they_are_asked_for(self):
        asked = [json.loads(line) for line in on_terminal(KTMPI, "placement", self.counts, "--ratio", "0.25", "--json")]

        self.assertEqual(asked, into_a_pipe(KTMPI, "placement", self.counts, "--ratio", "0.25"))
        self.assertEqual([line["kind"] for line in asked], ["counts", "counts", "hit_percent"])

    def test_bench_step_shows_the_figures_and_every_ranks_parts(self):
        lines = on_terminal(*self.step)

        self.assertEqual(lines[0].split(), ["phase", "tokens", "batch", "ms", "tokens/s"])
        self.assertEqual(lines[1].split()[:3], ["prefill", "70", "1"])
        self.assert_aligned(lines[0], lines[1], "tokens", "batch", "ms", "tokens/s")
        self.assertEqual(lines[2].split()[:4], ["rank", "role", "mixer", "dense"])
        self.assert_aligned(lines[2], lines[3], "rank", "mixer", "router", "experts", "head", "DRAM GB/s")
        self.assertEqual(lines[3].split()[0], "0")
        self.assertEqual((lines[4], lines[5].split()[0]), ("", "phase"))
        self.assertEqual(lines[6].split()[0], "decode")

    def test_bench_step_under_mpirun_asks_what_mpirun_prints_to(self):
        launch = [MPIRUN, "-np", "2", "--oversubscribe", "--bind-to", "none"]

        self.assertEqual([line["phase"] for line in into_a_pipe(*launch, *self.step)], ["prefill", "decode"])
        self.assertIn("expert", "\n".join(on_terminal(*launch, *self.step)).split())
        self.assertEqual(len([json.loads(line) for line in on_terminal(*launch, *self.step, "--json")]), 2)

    def test_bench_kernels_shows_a_row_for_each_number_of_tokens(self):
        bench = [KTMPI, "bench", "kernels", "--hidden", "512", "--inter", "128", "--experts", "8", "--topk", "2", "--tokens",
                 "1,2", "--threads", "1", "--seconds", "0.01"]
        lines = on_terminal(*bench)

        self.assertTrue(lines[0].startswith("8 BF16 experts of 512 x 128, 2 a token, "), lines[0])
        self.assertEqual(lines[2].split(), ["tokens", "ms", "limit_ms", "of", "limit", "GB/s", "GFLOP/s", "calls"])
        self.assertEqual([line.split()[0] for line in lines[3:]], ["1", "2"])
        for row in lines[3:]:
            self.assert_aligned(lines[2], row, "tokens", "limit_ms", "of limit", "GFLOP/s")
        piped = into_a_pipe(*bench)
        self.assertEqual([(line["method"], line["hidden"], line["experts"], line["tokens"]) for line in piped],
                         [("BF16", 512, 8, 1), ("BF16", 512, 8, 2)])
        for line in piped:
            self.assertGreater(min(line[name] for name in ("ms_median", "gbps", "gflops", "dram_gbps", "peak_gflops", "limit_ms",
                                                           "fraction_of_limit", "experts_real")), 0)

    def test_bench_serve_shows_figures_and_times(self):
        endpoint = Endpoint()
        lines = on_terminal(KTMPI, "bench", "serve", "--url", endpoint.url, "--num-prompts", "3", "--random-input-len", "5",
                            "--random-output-len", "4")

        figures = {line.split()[0]: line.split()[1] for line in lines if len(line.split()) == 2}
        self.assertEqual((figures["completed"], figures["model_id"]), ("3", "fake-model"))
        times = next(i for i, line in enumerate(lines) if line.startswith("ms"))
        self.assertEqual([line.split()[0] for line in lines[times + 1:]], ["ttft", "tpot", "itl", "e2el"])
        for row in lines[times + 1:]:
            self.assert_aligned(lines[times], row, "mean", "median", "std", "p99")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
