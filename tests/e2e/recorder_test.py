"""What the recorder writes is what the router chose, in every mode and world.

    recorder_test.py --program KTMPI FIXTURE [--worlds 1,3,4]

A prompt and its answer are rows of a known number, each of which chooses top_k experts in every MoE layer; the counts
are the same in every world, and those of single tokens add up to them.
"""
import argparse
import glob
import json
import os
import pickle
import random
import subprocess
import tempfile
import zipfile

from ktmpi_server import Server, enter_venv, fixture_folder, need_program

PROMPT, ANSWER = 150, 20  # tokens; the answer's last one is never a row
ROWS = PROMPT + ANSWER - 1


class Tensors(pickle.Unpickler):
    """Reads what torch.save wrote as numpy arrays, where torch itself is not installed."""

    def __init__(self, path):
        self.archive = zipfile.ZipFile(path)
        self.root = next(n for n in self.archive.namelist() if n.endswith("data.pkl")).removesuffix("data.pkl")
        super().__init__(self.archive.open(self.root + "data.pkl"))

    def persistent_load(self, pid):
        import numpy
        kind, dtype, key, _, elements = pid
        assert kind == "storage"
        return numpy.frombuffer(self.archive.read(f"{self.root}data/{key}"), dtype, elements)

    def find_class(self, module, name):
        return {"torch._utils _rebuild_tensor_v2": lambda storage, _, shape, *__: storage.reshape(shape),
                "collections OrderedDict": dict, "torch IntStorage": "<i4", "torch LongStorage": "<i8",
                "torch BoolStorage": "?"}[f"{module} {name}"]


class Recording:
    """A fixture, a prompt, and what is recorded of it."""

    def __init__(self, program, model, folder):
        self.program, self.model, self.folder = program, model, folder
        with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        config = config.get("text_config", config)
        self.layers, self.top_k = config["num_hidden_layers"], config["num_experts_per_tok"]
        self.dense = config.get("first_k_dense_replace", 0)
        rng = random.Random(5)
        self.ids = [rng.randrange(2, config["vocab_size"]) for _ in range(PROMPT)]

    def dump(self, world, mode, *options):
        """The files of one recorded request, read, and their paths."""
        folder = tempfile.mkdtemp(dir=self.folder)
        options = ["--expert-distribution-recorder-mode", mode, "--chunked-prefill-size", 64,
                   *(["--kt-threadpool-count", 2] if world > 1 else []), *options]
        variables = {"SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR": folder}
        request = {"input_ids": self.ids,
                   "sampling_params": {"temperature": 0, "max_new_tokens": ANSWER, "ignore_eos": True}}
        with Server(self.program, self.model, world, options, variables) as server:
            for path in ("start", "stop", "start"):
                status, text = server.get(f"/{path}_expert_distribution_record")
                assert status == 200 and text.lower().startswith(path), (status, text)
            server.generate(request)
            assert server.post("/stop_expert_distribution_record", {})[0] == 200
            server.generate(request)  # not recorded
            status, text = server.post("/dump_expert_distribution_record", {})
            assert status == 200, (status, text)
            paths = text.split(" to ", 1)[1].split()
            assert sorted(paths) == sorted(glob.glob(os.path.join(folder, "*"))), (paths, os.listdir(folder))
            assert server.get("/dump_expert_distribution_record")[0] == 400, "what was dumped is forgotten"
        return [Tensors(path).load() for path in paths], paths

    def check_counts(self, counts):
        assert counts.shape[0] == self.layers, counts.shape
        assert not counts[:self.dense].any(), counts
        assert (counts[self.dense:].sum(axis=1) == ROWS * self.top_k).all(), counts.sum(axis=1)

    def check_placement(self, path):
        text = subprocess.run([self.program, "placement", path, "--ratio", "0.5"], check=True, capture_output=True,
                              text=True).stdout
        hits = json.loads(text.splitlines()[-1])
        uniform, frequency = hits["uniform"], hits["frequency"]
        assert 0 < uniform <= frequency < 100, text
        print(f"  {os.path.basename(path)}: half of the experts hot: uniform {uniform:.2f} %, frequency {frequency:.2f} %")


def check_stat(recording, worlds):
    """The counts, [layers, experts], which are the same in all worlds."""
    expected = None
    for world in worlds:
        (stat,), paths = recording.dump(world, "stat")
        assert stat["logical_count"].shape[0] == 1000 and stat["rank"] == 0
        steps = (stat["logical_count"].sum(axis=(1, 2)) > 0).sum()
        assert steps == -(-PROMPT // 64) + ANSWER - 1, steps
        counts = stat["logical_count"].sum(axis=0)
        recording.check_counts(counts)
        expected = counts if expected is None else expected
        assert (counts == expected).all(), f"world {world} counts otherwise"
        print(f"  world {world}: {counts.sum()} choices in {steps} steps")
    recording.check_placement(paths[0])
    return expected


def check_masks(recording, expected):
    (approx, masks), _ = recording.dump(1, "stat_approx", "--record-kt-gpu-expert-distribution")
    assert (approx["logical_count"].sum(axis=0) == expected).all()
    masks = masks["gpu_expert_masks"]
    assert masks.shape == approx["logical_count"].shape and masks.dtype == bool
    assert masks[0, :recording.dense].all()
    assert not masks[0, recording.dense:].any(), "no expert is hot without kt-num-gpu-experts"


def check_per_pass(recording, expected):
    (file,), paths = recording.dump(1, "per_pass")
    assert (sum(r["global_physical_count"] for r in file["records"]) == expected).all()
    steps = [r["forward_pass_id"] for r in file["records"]]
    assert steps == list(range(steps[0], steps[0] + len(steps))), steps
    recording.check_placement(paths[0])


def check_per_token(recording, expected):
    (file,), _ = recording.dump(3, "per_token")
    records = file["records"]
    tokens, positions = ([n for r in records for n in r[key]] for key in ("input_ids", "positions"))
    assert positions == list(range(ROWS)) and tokens[:PROMPT] == recording.ids
    assert [sum(r["extend_seq_lens"]) for r in records] == [64, 64, PROMPT - 128] + [1] * (ANSWER - 1)
    assert [r["forward_mode"] for r in records] == [1] * 3 + [2] * (ANSWER - 1)
    for r in records:
        chosen, counts = r["topk_ids_of_layer"], r["global_physical_count"]
        assert chosen.shape == (recording.layers, len(r["input_ids"]), recording.top_k), chosen.shape
        assert (chosen[:recording.dense] == -1).all()
        for layer in range(recording.dense, recording.layers):
            found = [(chosen[layer] == e).sum() for e in range(counts.shape[1])]
            assert found == counts[layer].tolist(), (layer, found)
    assert (sum(r["global_physical_count"] for r in records) == expected).all()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture", help="a name under fixtures/models")
    parser.add_argument("--program", required=True)
    parser.add_argument("--worlds", default="1,3,4")
    a = parser.parse_args()
    program, model = need_program(a.program), fixture_folder(a.fixture)
    with tempfile.TemporaryDirectory(prefix="ktmpi_recorder_") as folder:
        recording = Recording(program, model, folder)
        expected = check_stat(recording, map(int, a.worlds.split(",")))
        check_masks(recording, expected)
        check_per_pass(recording, expected)
        check_per_token(recording, expected)


if __name__ == "__main__":
    enter_venv()
    main()
