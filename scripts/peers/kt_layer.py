#!/usr/bin/env python3
"""A layer of experts in kt-kernel, for scripts/bench_peers.py, which runs this in an environment that has kt-kernel.

    kt_layer.py time --method FP8 --hidden 2048 --inter 512 --experts 341 --topk 10 --tokens 1,4 --threads 2 --seconds 1
    kt_layer.py accuracy --method AMXINT4 --hidden 2048 --inter 512 --weights gaussian|outliers --program KTMPI

`time` prints a JSON line for each number of tokens. As in `ktmpi bench kernels`, every expert has its own memory and
every call its own routing. `accuracy` gives one expert with the same weights to kt-kernel and to ktmpi and prints the error
of both against float64, relative in the Frobenius norm.

Only kt-kernel's extension module is loaded: it needs neither torch nor the package's other dependencies.
"""
import argparse
import glob
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

# The classes of kt-kernel that its own methods of these names use, with AVX-512 and without.
METHODS = {
    "BF16": ("AMXBF16_MOE", "AVX2BF16_MOE"),
    "FP8": ("AMXFP8_MOE", "AVX2FP8_MOE"),
    "RAWINT4": ("AMXInt4_KGroup_MOE", "AVX2RawInt4_MOE"),
    "AMXINT4": ("AMXInt4_MOE",),
    "AMXINT8": ("AMXInt8_MOE",),
}
# Best first, as kt-kernel itself chooses.
VARIANTS = (("amx", ("amx_tile", "amx_int8", "amx_bf16")), ("avx512_bf16", ("avx512_bf16", "avx512vbmi", "avx512_vnni")),
            ("avx512_vbmi", ("avx512vbmi", "avx512_vnni")), ("avx512_vnni", ("avx512_vnni",)),
            ("avx512_base", ("avx512f", "avx512bw")), ("avx2", ("avx2",)))
SOURCES = 4  # distinct experts; all others repeat their values in memory of their own
OUTLIERS, OUTLIER_FACTOR = 512, 20  # one column in 512 is 20 times as large


def load_extension():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        flags = set(next(line for line in f if line.startswith("flags")).split())
    name = next(name for name, needed in VARIANTS if flags.issuperset(needed))
    folder = os.path.dirname(importlib.util.find_spec("kt_kernel").origin)
    path = glob.glob(os.path.join(folder, f"_kt_kernel_ext_{name}.*.so"))[0]
    spec = importlib.util.spec_from_file_location("kt_kernel_ext", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return name, module


def to_bf16(x):
    """Nearest even; x is finite."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(x):
    return (x.astype(np.uint32) << 16).view(np.float32)


class Layer:
    """`projections(config, keep)` points the config at weights; what it appends to `keep` lives as long as the layer."""

    def __init__(self, kt, method, experts, top_k, hidden, inter, threads, max_tokens, projections):
        workers = kt.WorkerPoolConfig()
        workers.subpool_count, workers.subpool_numa_map, workers.subpool_thread_count = 1, [0], [threads]
        self.cpu = kt.CPUInfer(workers)
        config = kt.moe.MOEConfig(experts, top_k, hidden, inter, 0)
        config.max_len, config.pool = max_tokens, self.cpu.backend_
        self.keep = []
        order = projections(config, self.keep)
        self.keep.append(order)
        config.physical_to_logical_map = order.ctypes.data
        kind = next((getattr(kt.moe, name) for name in METHODS[method] if hasattr(kt.moe, name)), None)
        if kind is None:
            sys.exit(f"kt-kernel's build for this processor has no {' or '.join(METHODS[method])}")
        self.top_k, self.moe = top_k, kind(config)
        try:
            task = self.moe.load_weights_task(order.ctypes.data)
        except TypeError:
            task = self.moe.load_weights_task()
        self.cpu.submit(task)
        self.cpu.sync()

    def forward(self, x, ids, weights, y):
        rows = np.array([len(x)], np.int32)
        self.cpu.submit(self.moe.forward_task(rows.ctypes.data, self.top_k, ids.ctypes.data, weights.ctypes.data,
                                              x.ctypes.data, y.ctypes.data, False))
        self.cpu.sync()


def synthetic(a, random):
    """Weights of SOURCES experts, or quantised buffers for the AMXINT methods."""

    def point(config, keep):
        def at(array):
            keep.append(np.ascontiguousarray(array))
            return keep[-1].ctypes.data

        shapes = {"gate": (a.inter, a.hidden), "up": (a.inter, a.hidden), "down": (a.hidden, a.inter)}
        if a.method.startswith("AMXINT"):
            for name, (n, k) in shapes.items():
                size = n * k // (1 if a.method == "AMXINT8" else 2) + 4096
                setattr(config, name + "_projs", [[at(random.integers(0, 256, size, np.uint8))] * a.experts])
                setattr(config, name + "_scales", [[at(np.full(n, 0.001, np.float32))] * a.experts])
            return np.arange(a.experts, dtype=np.int64)
        if a.method != "BF16":
            config.quant_config.bits = 8 if a.method == "FP8" else 4
            config.quant_config.group_size = 128 if a.method == "FP8" else 32
            config.quant_config.zero_point = False
        for name, (n, k) in shapes.items():
            if a.method == "BF16":
                data = to_bf16(random.standard_normal((SOURCES, n, k), np.float32) / 50)
            elif a.method == "FP8":
                data = random.integers(0, 256, (SOURCES, n, k), np.uint8) & 0xB7  # below 1
                setattr(config, name + "_scale", at(np.full((SOURCES, n // 128, k // 128), 0.02, np.float32)))
            else:
                data = random.integers(0, 256, (SOURCES, n, k // 2), np.uint8)
                setattr(config, name + "_scale", at(to_bf16(np.full((SOURCES, n, k // 32), 0.005))))
            setattr(config, name + "_proj", at(data))
        return (np.arange(a.experts) % SOURCES).astype(np.int64)

    return point


def time_layer(a, kt, variant, out):
    random = np.random.default_rng(1)
    tokens = [int(n) for n in a.tokens.split(",")]
    layer = Layer(kt, a.method, a.experts, a.topk, a.hidden, a.inter, a.threads, max(tokens), synthetic(a, random))
    for n in tokens:
        x = to_bf16(random.standard_normal((n, a.hidden), np.float32))
        y = np.empty_like(x)
        weights = np.full((n, a.topk), 1 / a.topk, np.float32)
        times, start = [], time.perf_counter()
        while len(times) < 3 or (time.perf_counter() - start < a.seconds and len(times) < 2000):
            ids = np.argsort(random.random((n, a.experts)), axis=1)[:, :a.topk].astype(np.int64, order="C")
            begin = time.perf_counter()
            layer.forward(x, ids, weights, y)
            times.append(time.perf_counter() - begin)
        out({"peer": "kt-kernel", "variant": variant, "method": a.method, "hidden": a.hidden, "inter": a.inter,
             "experts_real": a.experts, "topk": a.topk, "tokens": n, "threads": a.threads, "calls": len(times) - 1,
             "ms_median": 1e3 * statistics.median(times[1:]), "finite": bool(np.isfinite(from_bf16(y)).all())})


def accuracy(a, kt, variant, out):
    random = np.random.default_rng(1)
    shapes = ((a.inter, a.hidden), (a.inter, a.hidden), (a.hidden, a.inter))
    parts = []
    for n, k in shapes:
        w = random.standard_normal((n, k), np.float32) / np.float32(np.sqrt(k))
        if a.weights == "outliers":
            w[:, random.choice(k, k // OUTLIERS, replace=False)] *= OUTLIER_FACTOR
        parts.append(to_bf16(w))
    rows = 64
    parts.append(to_bf16(random.standard_normal((rows, a.hidden), np.float32)))
    gate, up, down, x = (from_bf16(p).astype(np.float64) for p in parts)
    g = x @ gate.T
    expected = (g / (1 + np.exp(-g)) * (x @ up.T)) @ down.T

    def point(config, keep):
        for name, data in zip(("gate", "up", "down"), parts):
            keep.append(data)
            setattr(config, name + "_proj", data.ctypes.data)
        return np.zeros(1, np.int64)

    layer = Layer(kt, a.method, 1, 1, a.hidden, a.inter, a.threads, rows, point)
    y = np.empty((rows, a.hidden), np.uint16)
    layer.forward(parts[3], np.zeros((rows, 1), np.int64), np.ones((rows, 1), np.float32), y)
    with tempfile.TemporaryDirectory() as folder:
        given, got = os.path.join(folder, "layer"), os.path.join(folder, "output")
        with open(given, "wb") as f:
            for p in parts:
                f.write(p.tobytes())
        subprocess.run([a.program, "bench", "kernels", "--kt-method", a.method, "--hidden", str(a.hidden), "--inter",
                        str(a.inter), "--layer", given, "--layer-output", got], check=True)
        ours = np.fromfile(got, np.float32).reshape(rows, a.hidden)

    def error(found):
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    theirs, mine = error(from_bf16(y)), error(ours)
    out({"accuracy": a.weights, "method": a.method, "variant": variant, "hidden": a.hidden, "inter": a.inter, "rows": rows,
         "kt_kernel_error": theirs, "ktmpi_error": mine, "ratio": mine / theirs})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("time", "accuracy"))
    p.add_argument("--method", choices=METHODS, required=True)
    p.add_argument("--weights", choices=("gaussian", "outliers"), default="gaussian")
    p.add_argument("--program")
    p.add_argument("--tokens", default="1")
    for name, value in (("hidden", 2048), ("inter", 512), ("experts", 16), ("topk", 10), ("threads", 1)):
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--seconds", type=float, default=1.0)
    a = p.parse_args()
    stdout = os.dup(1)  # kt-kernel writes to stdout
    os.dup2(2, 1)

    def out(line):
        os.write(stdout, (json.dumps(line) + "\n").encode())

    variant, kt = load_extension()
    (time_layer if a.what == "time" else accuracy)(a, kt, variant, out)
    os._exit(0)  # kt-kernel's threads do not end


if __name__ == "__main__":
    main()
