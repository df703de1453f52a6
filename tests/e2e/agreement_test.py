"""Ranks that have something else than rank 0 are named before any weight is loaded.

    agreement_test.py --program KTMPI FIXTURE

Rank 2 is of another machine (KTMPI_NODE) and gets options of its own: other weights of the same shapes, another
config.json, no folder, another value of an option.
"""
import argparse
import json
import os
import shutil
import stat
import subprocess
import tempfile

from ktmpi_server import environment, fixture_folder, mpirun, need_program


def started(program, fixture, folder, *of_rank_2):
    """Exit code and output of three ranks, the last with further options."""
    path = os.path.join(folder, "started")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nmore=\n[ "$OMPI_COMM_WORLD_RANK" = 2 ] && more="{" ".join(of_rank_2)}"\n'
                   f'[ "$OMPI_COMM_WORLD_RANK" = 2 ] && export KTMPI_NODE=other\nexec {program} "$@" $more\n')
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    done = subprocess.run(mpirun(3, path, "--model", fixture, "--port", 0), env=environment(), timeout=60,
                          capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def copy(fixture, folder, name, change):
    to = os.path.join(folder, name)
    shutil.copytree(fixture, to, ignore=shutil.ignore_patterns("reference"))
    change(to)
    return to


def flip_a_bit(folder):
    """In the middle of the weights: all that tells checkpoints apart without reading them stays."""
    name = max((n for n in os.listdir(folder) if n.endswith(".safetensors")),
               key=lambda n: os.path.getsize(os.path.join(folder, n)))
    with open(os.path.join(folder, name), "r+b") as file:
        file.seek(os.path.getsize(file.name) * 2 // 3)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def change_config(folder):
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config["rope_theta"] = 12345.0
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture")
    parser.add_argument("--program", required=True)
    a = parser.parse_args()
    program, fixture = need_program(a.program), fixture_folder(a.fixture)
    with tempfile.TemporaryDirectory(prefix="ktmpi_e2e_") as folder:
        cases = {
            "other weights": (["--model", copy(fixture, folder, "weights", flip_a_bit)], 64,
                              ["samples of the weights is"]),
            "another config.json": (["--model", copy(fixture, folder, "config", change_config)], 64,
                                    ["config.json is"]),
            "no folder": (["--model", os.path.join(folder, "missing")], 64, ["missing"]),
            "another option": (["--chunked-prefill-size", "256"], 2, ["chunked-prefill-size is 256", "it is not set"]),
        }
        for name, (options, code, texts) in cases.items():
            found, output = started(program, fixture, folder, *options)
            assert found == code, (name, found, output)
            for text in ["rank 2 (", *texts]:
                assert text in output, (name, text, output)
            assert "loaded" not in output, (name, output)
            print("refused", name, flush=True)


if __name__ == "__main__":
    main()
