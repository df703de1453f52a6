"""Whatever is wrong is said clearly: at start by one error and its exit code, later by a status and an error object.

    bad_input_test.py --program KTMPI
"""
import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

from ktmpi_server import Server, environment, fixtures, mpirun, need_program

START_S = 15  # a mistake in the set-up is found before that

PROGRAM = FIXTURE = None


class Model:
    """A folder that looks like the fixture, with some files changed."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="ktmpi_bad_")
        for name in os.listdir(FIXTURE):
            os.symlink(os.path.join(FIXTURE, name), self.path(name))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def replace(self, name, content):
        os.remove(self.path(name))
        if content is not None:
            with open(self.path(name), "wb") as f:
                f.write(content)

    def edit_config(self, **changes):
        with open(os.path.join(FIXTURE, "config.json"), encoding="utf-8") as f:
            config = json.load(f) | changes
        self.replace("config.json", json.dumps({k: v for k, v in config.items() if v is not ...}).encode())


class Start(unittest.TestCase):
    def refuse(self, code, words, *options, world=2):
        """The job ends with that code, and one rank says, once, all the words."""
        start = time.monotonic()
        job = subprocess.run(mpirun(world, PROGRAM, *options), stdin=subprocess.DEVNULL, capture_output=True,
                             text=True, errors="replace", env=environment(), timeout=60)
        seconds = time.monotonic() - start
        said = [line for line in job.stderr.splitlines() if line.startswith("ktmpi: ")]
        self.assertEqual(job.returncode, code, job.stderr)
        self.assertEqual(len(said), 1, job.stderr)
        for word in words:
            self.assertIn(word, job.stderr)
        self.assertLess(seconds, START_S)

    def refuse_model(self, words, change, world=2):
        with Model() as model:
            change(model)
            self.refuse(64, words, "--model", model.folder, "--port", 0, world=world)

    def test_no_model(self):
        self.refuse(2, ["--model"], "--port", 0)
        self.refuse(64, ["/there/is/no/model"], "--model", "/there/is/no/model", "--port", 0)

    def test_a_configuration_file_that_is_not_there(self):
        self.refuse(2, ["/there/is/no/file.yaml"], "--config", "/there/is/no/file.yaml")

    def test_an_unknown_option(self):
        self.refuse(2, ["--tensor-paralel-size", "--tensor-parallel-size"], "--tensor-paralel-size", 1)

    def test_values_that_are_none(self):
        for value in ("x", "-1", "70000", "1.5", "99999999999999999999"):
            self.refuse(2, ["port"], "--model", FIXTURE, "--port", value, world=1)

    def test_a_wrong_world_size(self):
        self.refuse(2, ["5"], "--model", FIXTURE, "--port", 0, "--tensor-parallel-size", 2, "--kt-threadpool-count", 3,
                    world=4)
        self.refuse(2, ["tensor-parallel-size"], "--model", FIXTURE, "--port", 0, "--tensor-parallel-size", 4, world=3)

    def test_deferral_on_trunk_ranks_that_hold_the_experts(self):
        for world, more in ((1, []), (2, ["--tensor-parallel-size", 2, "--kt-threadpool-count", 2])):
            self.refuse(2, ["kt-max-deferred-experts-per-token 2", "expert ranks of their own"], "--model", FIXTURE,
                        "--port", 0, "--kt-max-deferred-experts-per-token", 2, *more, world=world)

    def test_a_model_without_config(self):
        self.refuse_model(["config.json is missing"], lambda m: m.replace("config.json", None))
        self.refuse_model(["config.json", "line 1"], lambda m: m.replace("config.json", b"{"))

    def test_a_config_without_a_key_or_with_a_wrong_one(self):
        self.refuse_model(["config.json: num_experts is missing"], lambda m: m.edit_config(num_experts=...))
        self.refuse_model(["num_experts", '"16"'], lambda m: m.edit_config(num_experts="16"))
        other = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        self.refuse_model(["LlamaForCausalLM"], lambda m: m.edit_config(**other))
        self.refuse_model(["quantization_config"], lambda m: m.edit_config(quantization_config={"quant_method": "fp8"}))

    def test_a_truncated_shard(self):
        shard = "model-00002-of-00002.safetensors"
        with open(os.path.join(FIXTURE, shard), "rb") as f:
            whole = f.read()
        for size in (0, 5, 1000, len(whole) // 2, len(whole) - 1):
            self.refuse_model([shard], lambda m, n=size: m.replace(shard, whole[:n]), world=1 if size else 3)

    def test_a_shard_that_is_not_there(self):
        shard = "model-00001-of-00002.safetensors"
        self.refuse_model([shard, "missing"], lambda m: m.replace(shard, None))

    def test_a_tensor_of_another_shape(self):
        self.refuse_model(["expected shape (704, 256), found (640, 256)"], lambda m: m.edit_config(vocab_size=704))
        self.refuse_model(["expected shape", "found"], lambda m: m.edit_config(moe_intermediate_size=96), world=3)

    def test_a_port_that_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.refuse(69, [str(port)], "--model", FIXTURE, "--port", port)
            self.refuse(69, [str(port)], "--model", FIXTURE, "--port", port, "--host", "localhost", world=1)

    def test_addresses_and_files_that_cannot_be_had(self):
        for host in ("no such host", "/run/ktmpi.sock", "192.0.2.1"):
            self.refuse(2, [host], "--model", FIXTURE, "--port", 0, "--host", host, world=1)
        for path in ("/there/is/no/folder/url", "/proc/url", "/tmp"):
            for option in ("url-file", "kt-expert-statistics"):
                self.refuse(2, [option, path], "--model", FIXTURE, "--port", 0, "--" + option, path, world=1)


def generate(**changes):
    body = {"input_ids": [1, 2, 3], "sampling_params": {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True}}
    for key, value in changes.items():
        if key in ("input_ids", "text", "return_logprob", "top_logprobs_num", "stream", "rid"):
            body[key] = value
        else:
            body["sampling_params"][key] = value
    return {k: v for k, v in body.items() if v is not ...}


def complete(**changes):
    return {"model": "m", "prompt": "a", "max_tokens": 4, "temperature": 0} | changes


class Requests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(PROGRAM, FIXTURE, 2, ["--context-length", 512]))
        cls.expected = cls.server.generate(generate())["output_ids"]

    def refuse(self, path, body, statuses=(400,), method="POST"):
        status, answer = self.server.request(method, path, body)
        shown = str(body)[:120]
        self.assertIn(status, statuses, (path, shown, answer))
        self.assertIsInstance(answer, dict, (path, shown, answer))
        self.assertTrue(answer["error"]["message"], (path, shown))
        self.assertTrue(answer["error"]["type"], (path, shown))
        self.assertEqual(self.server.generate(generate())["output_ids"], self.expected, (path, shown))

    def test_bodies_that_are_no_json(self):
        for path in ("/generate", "/v1/completions", "/v1/chat/completions"):
            for body in (b"", b"{", b"[]", b"null", b"7", b'{"prompt": "a\xff"}', b'{"a": 1} x',
                         b'{"temperature": NaN}', b'{"prompt": "\\ud800"}', b"[" * 100000, b"\x00" * 10):
                self.refuse(path, body)

    def test_prompts_that_do_not_fit(self):
        self.refuse("/generate", generate(input_ids=[1] * 513))
        self.refuse("/generate", generate(input_ids=[1] * 100000))
        self.refuse("/v1/completions", complete(prompt="word " * 2000))
        self.refuse("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "word " * 2000}]})

    def test_prompts_that_are_none(self):
        for ids in ([], [-1], [640], [1 << 40], ["a"], [1.5], "abc", {}, [[1], "a"]):
            self.refuse("/generate", generate(input_ids=ids))
        self.refuse("/generate", generate(input_ids=...))
        self.refuse("/v1/completions", complete(prompt=None))
        self.refuse("/v1/completions", complete(prompt=7))
        for messages in (None, [], "a", [1], [{}], [{"role": "user"}], [{"content": "a"}]):
            self.refuse("/v1/chat/completions", {"model": "m", "messages": messages})

    def test_numbers_that_are_out_of_range(self):
        for key, values in {"temperature": [-1, "1", [], 1e39], "top_p": [-0.1, 0, 1.1, "x"], "top_k": [-2, 1.5, "x"],
                            "min_p": [-0.1, 1.1], "max_new_tokens": [-1, 1.5, "x"], "n": [0, -1, 1_000_000, "x"],
                            "frequency_penalty": [-3, 3], "repetition_penalty": [0, -1, "x"], "stop": [7, [7]],
                            "stop_token_ids": [7, ["a"], [-1]], "logit_bias": [7, {"a": 1}]}.items():
            for value in values:
                self.refuse("/generate", generate(**{key: value}))
        for key, values in {"n": [0, -1, 1_000_000], "max_tokens": [0, -2, "x"], "temperature": [-1, "x"],
                            "logprobs": [-1, 1_000_000]}.items():
            for value in values:
                self.refuse("/v1/completions", complete(**{key: value}))
        for number in (b"1e999", b"-1e999", b"NaN", b"Infinity", b"0x1", b"1" * 5000):
            self.refuse("/generate", b'{"input_ids": [1], "sampling_params": {"temperature": ' + number + b"}}")

    def test_paths_and_methods_that_are_none(self):
        self.refuse("/there/is/nothing", None, (404,), "GET")
        self.refuse("/generate", None, (405,), "GET")
        self.refuse("/health", b"{}", (405,), "POST")

    def test_the_server_has_lost_nothing(self):
        self.assertEqual(self.server.load(), (0, 0, 0))


def main():
    global PROGRAM, FIXTURE
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    a, rest = parser.parse_known_args()
    PROGRAM, FIXTURE = need_program(a.program), os.path.join(fixtures(), "qwen3_moe-bf16")
    unittest.main(argv=sys.argv[:1] + rest)


if __name__ == "__main__":
    main()
