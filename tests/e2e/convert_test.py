"""Converting a tiny checkpoint: killed at any point it ends with the same bytes, and what it wrote is served alike.

    convert_test.py --program KTMPI FIXTURE TYPE [--worlds 1,2,3,5] [--kills 20]

AMXINT8 is held to the fixture's reference like BF16. AMXINT4 has no such reference: its deviation from the checkpoint's
own format is held to AMXINT8's, in proportion to the errors that `ktmpi convert --check` measures in experts' outputs.
With hot-weights model a hot expert gives the bytes of the checkpoint's own format, whatever the bank has.
"""
import argparse
import hashlib
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time

from golden_test import answers_of_job, check_against_reference, expect_same, open_reference, run_layouts
from ktmpi_server import Server, environment, mpirun, need_program

import numpy as np


def contents(folder):
    digests = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            digests[name] = hashlib.sha256(f.read()).hexdigest()
    return digests


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120,
                          env=environment())


def expect_success(result):
    assert result.returncode == 0, f"exit code {result.returncode}:\n{result.stdout}{result.stderr}"
    return result


def kill_and_resume(command, folder, expected, seconds, kills):
    """Kills the conversion at random points until it has been killed that often, then lets it end."""
    rng, progress = random.Random(1), []
    for _ in range(kills):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
        time.sleep(rng.uniform(0.0, 1.2 * seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = contents(folder) if os.path.isdir(folder) else {}
        for name, digest in there.items():
            assert name.endswith(".part") or name == "manifest.json" or digest == expected[name], f"{name} is not whole"
        progress.append(sum(name.startswith("layer-") and not name.endswith(".part") for name in there))
        if progress[-1] == len(expected) - 1 and rng.random() < 0.5:
            shutil.rmtree(folder)  # from the start once more
    expect_success(run(*command))
    assert contents(folder) == expected, f"{contents(folder)} instead of {expected}"
    print(f"  killed {kills} times, layers that were there: {progress}; same bytes in the end")


def check_damage(program, model, folder, layers):
    """Every rank's part is refused with file, layer and expert when it is damaged."""
    damaged = folder + "-damaged"
    shutil.copytree(folder, damaged)
    name = f"layer-{layers[-1]:05}.safetensors"
    path = os.path.join(damaged, name)
    size = os.path.getsize(path)
    with open(path, "r+b") as f:
        f.seek(size // 2)
        byte = f.read(1)
        f.seek(size // 2)
        f.write(bytes([byte[0] ^ 4]))
    pattern = rf"{name}: layer {layers[-1]}, expert \d+: columns \d+ to \d+ do not have their checksum"
    for command in (mpirun(3, program, "--model", model, "--port", 0, "--kt-weight-path", damaged),
                    [program, "convert", "--check", "--output", damaged]):
        result = run(*command)
        assert result.returncode == 64 and re.search(pattern, result.stderr), (result.returncode, result.stderr)
    os.truncate(path, size - 1)
    result = run(*mpirun(2, program, "--model", model, "--port", 0, "--kt-weight-path", damaged))
    assert result.returncode == 64 and f"{name}: layer {layers[-1]}: expected {size} bytes" in result.stderr, result.stderr
    os.remove(os.path.join(damaged, "manifest.json"))
    result = run(program, "--model", model, "--port", "0", "--kt-weight-path", damaged)
    assert result.returncode == 64 and "config.json is missing" in result.stderr, result.stderr
    shutil.rmtree(damaged)
    print("  damage is refused")


def check_refusals(program, model, folder, kind, method):
    other = {"AMXINT4": "AMXINT8", "AMXINT8": "AMXINT4"}[method]
    for options, expected in ((["--kt-method", method], f"ktmpi convert --input-path {model} --input-type {kind}"),
                              (["--kt-method", other, "--kt-weight-path", folder], f"was converted to {method}"),
                              (["--kt-weight-path", folder + "/nothing"], "there is no such folder")):
        result = run(program, "--model", model, "--port", "0", *options)
        assert result.returncode in (2, 64) and expected in result.stderr, (result.returncode, result.stderr)
    theirs = tempfile.mkdtemp(prefix="ktmpi_theirs_")
    os.makedirs(os.path.join(theirs, "_layer_0", "_numa_0"))
    result = run(program, "--model", model, "--port", "0", "--kt-weight-path", theirs)
    shutil.rmtree(theirs)
    assert result.returncode == 2 and "converted by KTransformers" in result.stderr, result.stderr
    assert f"ktmpi convert --input-path {model} --input-type {kind}" in result.stderr, result.stderr
    print("  what does not fit is refused")


def deviations(output):
    """Mean relative error of an expert's output over the layers, as --check prints it."""
    lines = [json.loads(line) for line in output.splitlines()]
    found = [line["output_error"] for line in lines if "output_error" in line]
    assert found, output
    return float(np.mean(found))


def check_table(program, folder, model):
    """On a terminal --check prints a table."""
    ours, theirs = pty.openpty()
    command = [program, "convert", "--check", "--output", folder, "--input-path", model]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        os.close(theirs)
        text = b""
        try:
            while data := os.read(ours, 65536):
                text += data
        except OSError:  # the other side has closed
            pass
    os.close(ours)
    lines = text.decode().split("\r\n")
    assert process.returncode == 0 and lines[0] == "relative errors", text
    assert lines[1].split("  ") == ["layer", "of the weights", "of an expert's output"], text
    assert re.fullmatch(r" +\d+  +0\.\d{4}  +0\.\d{4}", lines[2]) and len(lines[2]) == len(lines[1]), text
    assert re.search(r": \d+ layers of \d+ AMXINT\d experts are whole$", lines[-2]), text


def serve_everywhere(program, model, prompts, worlds, options):
    first = None
    for world in worlds:
        with Server(program, model, world, options) as server:
            answers = answers_of_job(server, prompts)
        first = first or answers
        for name, answer in answers.items():
            expect_same(answer, first[name], f"{name} on {world} ranks")
    print(f"  {', '.join(map(str, worlds))} ranks: same bytes")
    return first


def check_hot_weights(program, model, prompts, options, native, cold):
    """Hot experts of the checkpoint's own format beside a converted bank: all of them, then some."""
    own, tp2 = [*options, "--hot-weights", "model", "--kt-gpu-experts-ratio"], ["--tensor-parallel-size", "2"]
    streamed = ["--kt-gpu-prefill-token-threshold", "64!"]
    few = {n: p for n, p in prompts.items() if n.startswith("batch")}
    run_layouts(program, model, few, [(1, [*own, "1"], {}), (4, [*own, "1", *tp2, *streamed], {})], native)
    some = run_layouts(program, model, few, [(1, [*own, "0.4"], {}), (3, [*own, "0.4", *streamed], {}),
                                             (4, [*own, "0.4", *tp2], {})])
    for other in (native, cold):
        assert any(some[n] != other[n] for n in some), "the hot experts are not those that were asked for"
    exchanged = [*own, "0.4", "--kt-enable-dynamic-expert-update", "--kt-expert-update-rule", "shuffle", *streamed]
    with Server(program, model, 3, exchanged) as server:
        answer = server.generate({"input_ids": max((ids for ids, _ in prompts.values()), key=len)})
        assert answer["output_ids"] and server.metric("ktmpi_hot_expert_exchanges_total") > 0
    refused = run(program, "--model", model, "--port", "0", *options, "--hot-weights", "model")
    assert refused.returncode == 2 and "kt-num-gpu-experts" in refused.stderr, (refused.returncode, refused.stderr)
    print("  hot experts of the checkpoint's own format: its bytes")


def prompt_logprobs(answers):
    return np.array([lp for name, a in sorted(answers.items()) if name.startswith("prompt of ")
                     for lp, _, _ in a["input_token_logprobs"] if lp is not None])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture", help="a name under fixtures/models")
    parser.add_argument("kind", help="its --input-type")
    parser.add_argument("--program", required=True)
    parser.add_argument("--worlds", default="1,2,3,5")
    parser.add_argument("--kills", type=int, default=20)
    a = parser.parse_args()
    program = need_program(a.program)
    model, prompts, _ = open_reference(a.fixture)
    worlds = [int(w) for w in a.worlds.split(",")]

    native = serve_everywhere(program, model, prompts, worlds[:1], [])
    error, off = {}, {}
    with tempfile.TemporaryDirectory(prefix="ktmpi_convert_") as temp:
        for quant, method in (("int8", "AMXINT8"), ("int4", "AMXINT4")):
            print(f"{a.fixture} to {method}")
            command = [program, "convert", "--input-path", model, "--input-type", a.kind, "--quant-method", quant,
                       "--cpuinfer-threads", "2", "--threadpool-count", "2", "--no-merge-safetensor", "--output"]
            folder = os.path.join(temp, quant)
            start = time.monotonic()
            expect_success(run(*command, folder))
            seconds, expected = time.monotonic() - start, contents(folder)
            layers = [int(name[6:11]) for name in expected if name.startswith("layer-")]
            kill_and_resume(command + [folder + "-killed"], folder + "-killed", expected, seconds, a.kills)
            check = expect_success(run(program, "convert", "--check", "--output", folder, "--input-path", model))
            error[method] = deviations(check.stdout)
            check_table(program, folder, model)
            check_damage(program, model, folder, layers)
            check_refusals(program, model, folder, a.kind, method)
            answers = serve_everywhere(program, model, prompts, worlds,
                                       ["--kt-method", method, "--kt-weight-path", folder])
            if method == "AMXINT8":
                check_against_reference(model, prompts, answers)
            else:
                check_hot_weights(program, model, prompts, ["--kt-method", method, "--kt-weight-path", folder], native,
                                  answers)
            off[method] = float(np.median(np.abs(prompt_logprobs(answers) - prompt_logprobs(native))))
            print(f"  an expert's output is off by {error[method]:.3f}, prompt logprobs by {off[method]:.4f} (median)")
    # To first order logprobs move in proportion to the experts' errors; 1.5 leaves room for the noise of a median.
    bound = 1.5 * off["AMXINT8"] * error["AMXINT4"] / error["AMXINT8"]
    assert off["AMXINT4"] <= bound, f"AMXINT4: prompt logprobs off by {off['AMXINT4']:.4f} > {bound:.4f}"
    print(f"AMXINT4: prompt logprobs off by {off['AMXINT4']:.4f}, at most {bound:.4f}")


if __name__ == "__main__":
    main()
