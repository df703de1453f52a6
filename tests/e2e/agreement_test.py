"""Ranks that have something else than rank 0 are named before any weight is loaded.

    agreement_test.py --program KTMPI FIXTURE

Rank 2 is of another machine (KTMPI_NODE) and gets options of its own: other weights of the same shapes, another
config.json, other converted experts, other counts to place experts by, no folder, another value of an option.
"""
import argparse
import json
import os
import shutil
import stat
import struct
import subprocess
import tempfile

from ktmpi_server import environment, fixture_folder, mpirun, need_program


def another_build(program, folder):
    """The same program, as a linker would call it after a change: the id of its note is another one."""
    with open(program, "rb") as file:
        data = bytearray(file.read())
    header = struct.pack("<III", 4, 20, 3) + b"GNU\0"  # of a name of 4 bytes, an id of 20, NT_GNU_BUILD_ID
    data[data.index(header) + len(header)] ^= 0xff
    path = os.path.join(folder, "other_build")
    with open(path, "wb") as file:
        file.write(data)
    shutil.copymode(program, path)
    return path


def started(program, fixture, folder, of_all, of_rank_2, program_2=None):
    """Exit code and output of three ranks with `of_all`, the last with further options, or of another program."""
    path = os.path.join(folder, "started")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nmore=\n[ "$OMPI_COMM_WORLD_RANK" = 2 ] && more="{" ".join(of_rank_2)}"\n'
                   f'program={program}\n[ "$OMPI_COMM_WORLD_RANK" = 2 ] && export KTMPI_NODE=other '
                   f'program={program_2 or program}\nexec $program "$@" $more\n')
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    done = subprocess.run(mpirun(3, path, "--model", fixture, "--port", 0, *of_all), env=environment(), timeout=60,
                          capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def copy(fixture, folder, name, change):
    to = os.path.join(folder, name)
    shutil.copytree(fixture, to, ignore=shutil.ignore_patterns("reference"))
    change(to)
    return to


def flip_signs(folder):
    """Of some of an expert's weights in the middle: all that tells checkpoints apart without reading them stays."""
    name = max((n for n in os.listdir(folder) if n.endswith(".safetensors")),
               key=lambda n: os.path.getsize(os.path.join(folder, n)))
    with open(os.path.join(folder, name), "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        tensors = json.loads(file.read(length))
        experts = sorted(n for n in tensors if ".mlp.experts." in n)
        begin, end = tensors[experts[len(experts) // 2]]["data_offsets"]
        at = 8 + length + (begin + end) // 2 // 2 * 2
        file.seek(at)
        some = file.read(256)
        file.seek(at)
        file.write(bytes(byte ^ 0x80 for byte in some))


def change_config(folder):
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config["rope_theta"] = 12345.0
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)


def converted(program, model, folder, name):
    to = os.path.join(folder, name)
    subprocess.run([program, "convert", "--input-path", model, "--input-type", "bf16", "--output", to], check=True,
                   capture_output=True, env=environment())
    return to


def counts(fixture, folder, name, first):
    """How often each expert was chosen; those from `first` on are the favourites."""
    with open(os.path.join(fixture, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    layers, experts = config["num_hidden_layers"], config.get("num_experts") or config["num_local_experts"]
    to = os.path.join(folder, name)
    with open(to, "w", encoding="utf-8") as file:
        json.dump({"ktmpi_expert_counts": 1, "layers": layers, "experts": experts,
                   "counts": [[1 + 9 * (e >= first) for e in range(experts)]] * layers}, file)
    return to


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture")
    parser.add_argument("--program", required=True)
    a = parser.parse_args()
    program, fixture = need_program(a.program), fixture_folder(a.fixture)
    with tempfile.TemporaryDirectory(prefix="ktmpi_e2e_") as folder:
        other = copy(fixture, folder, "weights", flip_signs)
        experts = [converted(program, model, folder, name) for model, name in ((fixture, "int4"), (other, "other_int4"))]
        by_counts = ["--kt-num-gpu-experts", "4", "--kt-expert-placement-strategy", "frequency", "--init-expert-location"]
        cases = {
            "other weights": ([], ["--model", other], 64, ["samples of the weights is"]),
            "another config.json": ([], ["--model", copy(fixture, folder, "config", change_config)], 64,
                                    ["config.json is"]),
            "other converted experts": (["--kt-method", "AMXINT4", "--kt-weight-path", experts[0]],
                                        ["--kt-weight-path", experts[1]], 64, ["the experts' files is"]),
            "other counts": ([*by_counts, counts(fixture, folder, "counts", 4)],
                             ["--init-expert-location", counts(fixture, folder, "other_counts", 8)], 64,
                             ["where experts are hot or copied is"]),
            "no folder": ([], ["--model", os.path.join(folder, "missing")], 64, ["missing"]),
            "another option": ([], ["--chunked-prefill-size", "256"], 2,
                               ["chunked-prefill-size is 256", "it is not set"]),
        }
        cases["another build"] = ([], [], 2, ["the build is "])
        other_build = another_build(program, folder)
        for name, (of_all, options, code, texts) in cases.items():
            found, output = started(program, fixture, folder, of_all, options,
                                    other_build if name == "another build" else None)
            assert found == code, (name, found, output)
            for text in ["rank 2 (", *texts]:
                assert text in output, (name, text, output)
            assert "loaded" not in output, (name, output)
            print("refused", name, flush=True)


if __name__ == "__main__":
    main()
