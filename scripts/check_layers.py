#!/usr/bin/env python3
"""Holds every #include against the tables below: who may know whom, and who alone may know a library.

    scripts/check_layers.py [ROOT]

What follows from them: the HTTP code cannot see a tensor, the model cannot see MPI, architectures can see neither.
"""
import pathlib
import re
import sys

# Folder -> what of ours its files may include besides their own folder: folders, or single headers.
LAYERS = {
    "kernels": [],
    "runtime/base": [],
    "runtime/placement": ["runtime/base"],
    "runtime/config": ["runtime/base"],
    "runtime/checkpoint": ["runtime/base", "kernels"],
    "runtime/text": ["runtime/base"],
    "runtime/arch": ["runtime/base", "runtime/arch/config.h"],
    "runtime/comm": ["runtime/base", "kernels"],
    "runtime/model": [  # computes by devices alone, so no kernels/ops.h
        "runtime/base", "kernels/device.h", "kernels/buffer.h", "kernels/format", "kernels/numeric.h",
        "kernels/thread_pool.h", "kernels/weight.h", "runtime/checkpoint", "runtime/arch/arch.h", "runtime/comm",
    ],
    "runtime/policy": ["runtime/base", "runtime/placement", "runtime/step/step.h", "runtime/step/orders.h"],
    "runtime/engine": [
        "runtime/base", "kernels", "runtime/config", "runtime/checkpoint", "runtime/text", "runtime/arch",
        "runtime/comm", "runtime/model", "runtime/recording/recorder.h",
    ],
    "runtime/serve": [
        "runtime/base", "runtime/text", "runtime/engine/engine.h", "runtime/engine/request.h",
        "runtime/recording/recorder.h",
    ],
    "runtime/plan": [
        "runtime/base", "kernels", "runtime/config", "runtime/checkpoint", "runtime/arch", "runtime/comm",
        "runtime/model", "runtime/placement", "runtime/engine",
    ],
    "runtime/client": ["runtime/base"],
    "launcher": ["runtime", "kernels"],
}

# Header of a library, by its beginning -> the only folders or files that may include it.
LIBRARIES = {
    "immintrin.h": ["kernels/cpu"],
    "x86intrin.h": ["kernels"],
    "numa": ["kernels", "runtime/comm"],
    "hwloc": ["runtime/comm/machine.cpp"],
    "cuda": ["kernels/cuda"],
    "mpi.h": ["runtime/comm/mpi.cpp", "launcher/version.cpp"],
    "ucp/": ["runtime/comm/ucx.cpp"],
    "nccl.h": ["runtime/comm/nccl.cpp"],
    "yaml-cpp/": ["runtime/config", "runtime/plan"],
    "boost/program_options": ["runtime/config", "launcher"],
    "boost/beast": ["runtime/serve", "runtime/client"],
    "boost/asio": ["runtime/serve", "runtime/client"],
    "Python.h": ["runtime/text"],
    "pcre2.h": ["runtime/text"],
    "unicode/": ["runtime/text"],
    "xgrammar/": ["runtime/text/grammars/grammar.cpp"],
    "fsm_builder.h": ["runtime/text/answers/stop_automaton.cpp"],
    "histedit.h": ["launcher/line_input.cpp"],
    "png.h": ["launcher/heat_map.cpp"],
    "zip.h": ["runtime/recording/zip_archive.cpp"],
    "simdjson.h": ["runtime/text"],
    "fmt/": ["runtime", "launcher"],
    "nlohmann/": ["runtime", "launcher"],
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def within(path, places):
    return any(path == place or path.startswith(place + "/") for place in places)


def folder_of(path):
    return next((folder for folder in LAYERS if path.startswith(folder + "/")), None)


def complaint(path, quote, header):
    """What is wrong with one include of the file `path` (from the root), or None."""
    folder = folder_of(path)
    if folder is None:
        return "this folder is not in the table LAYERS"
    if quote == '"':
        if folder_of(header) is None:
            return f'"{header}": expected a path from the root, such as "runtime/base/error.h"'
        if not within(header, [folder] + LAYERS[folder]):
            return f'"{header}": {folder} may include of ours only: {", ".join([folder] + LAYERS[folder])}'
        return None
    for library, places in LIBRARIES.items():
        if header.startswith(library) and not within(path, places):
            return f"<{header}> belongs to {', '.join(places)} alone"
    return None


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    files = [f for top in ("kernels", "runtime", "launcher") for f in sorted((root / top).rglob("*"))
             if f.suffix in (".h", ".cpp", ".cu")]
    if not files:
        sys.exit(f"check_layers: no sources under {root}")
    complaints = 0
    for file in files:
        path = file.relative_to(root).as_posix()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            wrong = match and complaint(path, match[1], match[2])
            if wrong:
                print(f"{path}:{number}: {wrong}")
                complaints += 1
    print(f"check_layers: {len(files)} files, {complaints} complaints")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
