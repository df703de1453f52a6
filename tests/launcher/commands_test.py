#!/usr/bin/env python3
"""What the program says and how it exits before it serves: commands_test.py KTMPI MPIRUN."""
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import unittest
import unittest.mock

KTMPI, MPIRUN = sys.argv[1], sys.argv[2]
ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def run(*command, text=""):
    return subprocess.run(command, capture_output=True, text=True, input=text, timeout=60,
                          env={**os.environ, **ROOT})


def in_terminal(columns, *command, text=""):
    """What a terminal so wide is sent."""
    pid, fd = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execv(command[0], command)
    os.write(fd, text.encode())
    shown = b""
    try:
        while piece := os.read(fd, 65536):
            shown += piece
    except OSError:  # the other side has closed
        pass
    os.close(fd)
    os.waitpid(pid, 0)
    return shown.decode().replace("\r\n", "\n")


class Commands(unittest.TestCase):
    def test_help_lists_the_commands_and_serve_help_the_options(self):
        commands, options = run(KTMPI, "--help"), run(KTMPI, "serve", "--help")

        self.assertEqual((commands.returncode, options.returncode), (0, 0))
        for name in ("serve", "tokenize", "template", "parse", "convert", "version"):
            self.assertIn(f"\n  {name} ", commands.stdout)
        self.assertIn("--tensor-parallel-size N", options.stdout)

    def test_the_program_alone_says_where_commands_are_listed(self):
        answer = run(KTMPI)

        self.assertEqual((answer.returncode, answer.stdout), (2, ""))
        self.assertIn("model is required: --model DIR", answer.stderr)
        self.assertIn("ktmpi --help lists the commands", answer.stderr)

    def test_help_fits_the_terminal_and_says_the_same_words(self):
        helps = [["--help"], ["bench", "--help"]]
        for command in re.findall(r"^  (\w+) ", run(KTMPI, "--help").stdout, re.M):
            if command != "version":  # has no help, it says all at once
                helps.append([command, "--help"])
        for columns in (60, 80, 200):
            for help in helps:
                shown, whole = in_terminal(columns, KTMPI, *help), run(KTMPI, *help).stdout
                self.assertEqual(shown.split(), whole.split(), help)
                words = max(map(len, re.findall(r"\S+", whole)))
                self.assertLessEqual(max(map(len, shown.splitlines())), max(columns, words + 12), help)
                if columns == 200:
                    self.assertEqual(sorted(re.findall(r"^  --\S+.*", shown, re.M)),
                                     sorted(re.findall(r"^  --\S+.*", whole, re.M)))
        serve = in_terminal(80, KTMPI, "serve", "--help")
        self.assertRegex(serve, r"\n  --port N {35,}port to listen on \(default 30000;\n {45}0: any free one\)\n")

    def test_a_file_that_is_missing_is_named_as_the_usage_does(self):
        answer = run(KTMPI, "placement")

        self.assertEqual((answer.returncode, answer.stdout), (2, ""))
        self.assertIn("placement: FILE is missing; ktmpi placement --help lists the options", answer.stderr)

    def test_a_terminal_is_told_that_records_are_read_from_it(self):
        self.assertIn("one record in JSON a line; Ctrl-D ends", in_terminal(80, KTMPI, "parse", text="\x04"))
        self.assertEqual(run(KTMPI, "parse").stderr, "")

    def test_options_without_a_command_mean_serve(self):
        self.assertEqual(run(KTMPI, "--model", "m", "--help").stdout, run(KTMPI, "serve", "--help").stdout)

    def test_version_names_what_it_was_built_with(self):
        for name in ("version", "--version"):
            answer = run(KTMPI, name)
            self.assertEqual(answer.returncode, 0)
            for word in ("ktmpi ", "compiler: ", "mpi: Open MPI", "found at build: "):
                self.assertIn(word, answer.stdout)

    def test_version_names_the_kernels_and_follows_ktmpi_isa(self):
        with unittest.mock.patch.dict(os.environ, {"KTMPI_ISA": "ref"}):
            self.assertRegex(run(KTMPI, "version").stdout, r"\nkernels: ref\b.*; used: ref\n")
        with unittest.mock.patch.dict(os.environ, {"KTMPI_ISA": "z80"}):
            answer = run(KTMPI, "version")

        self.assertEqual(answer.returncode, 2)
        self.assertIn("KTMPI_ISA=z80: this machine has ref", answer.stderr)

    def test_convert_says_what_it_needs(self):
        with tempfile.TemporaryDirectory() as folder:
            for options, code, expected in (
                    ([], 2, "convert: --output is missing; ktmpi convert --help lists the options"),
                    (["--output", "o"], 2, "--input-path and --input-type are required"),
                    (["--output", "o", "--input-path", "i", "--input-type", "awq"], 2, "found 'awq'"),
                    (["--output", "o", "--input-path", "i", "--input-type", "fp8", "--quant-method", "int2"], 2,
                     "expected int4 or int8"),
                    (["--output", folder, "--input-path", folder, "--input-type", "fp8"], 2, "another folder"),
                    (["--output", "o", "--input-path", folder, "--input-type", "fp8"], 64, "config.json is missing"),
                    (["--output", folder, "--check"], 64, "there is no manifest.json")):
                answer = run(KTMPI, "convert", *options)
                self.assertEqual(answer.returncode, code, answer.stderr)
                self.assertIn(expected, answer.stderr)

    def test_placement_says_what_each_strategy_would_have_hit(self):
        with tempfile.TemporaryDirectory() as folder:
            counts, others, picture = (os.path.join(folder, name) for name in ("a.json", "b.json", "map.png"))
            for path, rows in ((counts, [[0, 0, 0, 0], [1, 2, 3, 4], [0, 8, 1, 1]]),
                               (others, [[0, 0, 0, 0], [9, 0, 0, 1], [5, 5, 0, 0]])):
                with open(path, "w", encoding="utf-8") as file:
                    json.dump({"ktmpi_expert_counts": 1, "layers": 3, "experts": 4, "counts": rows}, file)

            answer = run(KTMPI, "placement", counts, "--ratio", "0.25,1", "--sets", "--png", picture)
            self.assertEqual(answer.returncode, 0, answer.stderr)
            lines = [json.loads(line) for line in answer.stdout.splitlines()]
            layers, hits, sets = ([line for line in lines if line["kind"] == kind]
                                  for kind in ("counts", "hit_percent", "hot"))
            self.assertEqual(layers[0], {"kind": "counts", "layer": 0, "choices": 0})
            self.assertEqual(layers[2], {"kind": "counts", "layer": 2, "choices": 10, "used": 3,
                                         "busiest_tenth_percent": 80.0, "busiest_experts": [1, 2, 3, 0],
                                         "busiest_percent": [80.0, 10.0, 10.0, 0.0]})
            quarter, whole = hits
            self.assertEqual([round(quarter[name], 6) for name in ("ratio", "hot", "uniform", "frequency", "front-loading")],
                             [0.25, 2, 5, 60, 15])
            self.assertEqual((whole["hot"], whole["random"]), (8, 100))
            self.assertEqual([(line["layer"], line["hot_experts"]) for line in sets
                              if (line["strategy"], line["ratio"]) == ("frequency", 0.25)], [(1, [3]), (2, [1])])
            with open(picture, "rb") as file:  # PNG, then the header with width and height
                header = file.read(24)
            self.assertEqual(header[:8], b"\x89PNG\r\n\x1a\n")
            self.assertEqual((int.from_bytes(header[16:20]), int.from_bytes(header[20:24])), (9 * 16, 3 * 16))

            elsewhere = run(KTMPI, "placement", counts, "--ratio", "0.25", "--strategies", "frequency", "--measure", others)
            self.assertAlmostEqual(json.loads(elsewhere.stdout.splitlines()[-1])["frequency"], 30)

    def test_placement_says_what_is_wrong(self):
        with tempfile.TemporaryDirectory() as folder:
            counts = os.path.join(folder, "counts.json")
            with open(counts, "w", encoding="utf-8") as file:
                json.dump({"ktmpi_expert_counts": 1, "layers": 1, "experts": 2, "counts": [[1, 2]]}, file)
            for options, expected in (([], "placement: FILE is missing"), (["absent"], "absent: No such file"),
                                      ([sys.argv[0]], "neither JSON with ktmpi_expert_counts nor a file of torch.save"),
                                      ([counts, "--ratio", "2"], "found '2'"),
                                      ([counts, "--strategies", "best"], "no placement strategy \"best\"")):
                answer = run(KTMPI, "placement", *options)
                self.assertEqual(answer.returncode, 2, answer.stderr)
                self.assertIn(expected, answer.stderr)
                self.assertEqual(answer.stdout, "")

    def test_the_page_of_options_is_what_the_program_prints(self):
        with open(os.path.join(os.path.dirname(__file__), "..", "..", "docs", "options.md"), encoding="utf-8") as page:
            self.assertEqual(page.read(), run(KTMPI, "man", "--markdown").stdout,
                             "write it anew: ktmpi man --markdown > docs/options.md")

    def test_plan_needs_only_the_config_and_says_what_does_not_fit(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
                json.dump({"architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 48,
                           "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
                           "max_position_embeddings": 40960, "num_experts": 128, "num_experts_per_tok": 8,
                           "moe_intermediate_size": 768}, file)
            hardware, small = os.path.join(folder, "box.yaml"), os.path.join(folder, "small.yaml")
            for path, memory, numa_nodes in ((hardware, 80, 2), (small, 65, 1)):
                with open(path, "w", encoding="utf-8") as file:
                    file.write(f"memory-gb: {memory}\nnuma-nodes: {numa_nodes}\n")
            plan = [KTMPI, "plan", "--model", folder, "--max-total-tokens", "65536"]

            fits, json_plan = run(*plan, "--hardware", hardware), run(*plan, "--hardware", hardware, "--json")
            impossible = run(*plan, "--hardware", small)
            world = run(*plan, "--hardware", hardware, "--kt-threadpool-count", "2", "--world", "5")

        self.assertEqual(fits.returncode, 0, fits.stderr)
        self.assertIn("\neverything fits\n", fits.stdout)
        self.assertIn("<- this plan", fits.stdout)
        answer = json.loads(json_plan.stdout)
        self.assertEqual([size["ranks"] for size in answer["valid_worlds"]], [1, 2, 3, 4])
        self.assertAlmostEqual(sum(answer["files_bytes"].values()) / 1e9, 61.1, delta=0.5)
        self.assertEqual(impossible.returncode, 2)
        self.assertRegex(impossible.stdout, r"machine 0 needs .* GB and has 65.00\nlower max-total-tokens to \d+ \(from 65536\)")
        self.assertEqual(world.returncode, 2)
        self.assertIn("valid: 3 (trunk ranks, then expert ranks)", world.stderr)

    def test_an_unknown_command_gets_the_nearest_one(self):
        answer = run(KTMPI, "tokenise")

        self.assertEqual(answer.returncode, 2)
        self.assertIn("unknown command 'tokenise'; the nearest one is 'tokenize'", answer.stderr)

    def test_a_usage_error_is_said_once_whatever_the_number_of_ranks(self):
        # Under a sanitizer what Open MPI keeps until the end is no matter of ours.
        answer = run("env", "ASAN_OPTIONS=detect_leaks=0", MPIRUN, "-np", "3", "--oversubscribe", "--bind-to", "none", KTMPI, "--prot", "1")

        self.assertEqual(answer.returncode, 2)
        self.assertEqual(answer.stderr.count("unknown option --prot; the nearest one is --port"), 1, answer.stderr)

    def test_parse_answers_each_record_and_names_what_it_refuses(self):
        chunks = ["plan</thi", "nk>Look.<tool_call>{\"name\": \"f\", ", "\"arguments\": {\"a\": 1}}</tool_call>"]
        records = [{"input_chunks": chunks, "force_reasoning": True}, {"input_chunks": "text"}, {"tools": 5}]

        answer = run(KTMPI, "parse", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3",
                     text="".join(json.dumps(record) + "\n" for record in records))

        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertEqual([json.loads(line) for line in answer.stdout.splitlines()], [
            {"reasoning_text": "plan", "normal_text": "Look.", "calls": [{"name": "f", "arguments": "{\"a\": 1}"}]},
            {"error": "input_chunks: a list of strings is expected"},
            {"error": "tools: a list is expected"}])
        unknown = run(KTMPI, "parse", "--tool-call-parser", "gpt")
        self.assertEqual(unknown.returncode, 2)
        self.assertIn("--tool-call-parser: unknown format 'gpt'; known are qwen3_coder, kimi_k2", unknown.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
