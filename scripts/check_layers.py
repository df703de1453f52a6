#!/usr/bin/env python3
"""Holds every #include against the tables below: who may know whom, and who alone may know a library.

    scripts/check_layers.py [ROOT]

What follows from them: the HTTP code cannot see a tensor, the model cannot see MPI, architectures can see neither.
"""
import pathlib
import re
import sys

# Folder -> what of ours its files may include besides their own folder: other folders, without those below them, or
# single headers. A folder stands behind all that it may use, and does use it.
LAYERS = {
    "kernels": [],
    "kernels/format": ["kernels"],
    "kernels/cpu": ["kernels", "kernels/format"],
    "kernels/simt": ["kernels/device_fault.h"],
    "kernels/cuda": ["kernels", "kernels/simt"],
    "runtime/base": [],
    "runtime/config": ["runtime/base"],
    "runtime/checkpoint": ["kernels", "runtime/base"],
    "runtime/arch": ["runtime/base"],
    "runtime/comm": ["kernels", "runtime/base"],
    "runtime/step": ["runtime/base"],
    "runtime/weights": ["kernels", "kernels/format", "runtime/base", "runtime/checkpoint", "runtime/arch"],
    "runtime/convert": ["kernels", "runtime/base", "runtime/checkpoint", "runtime/arch", "runtime/weights"],
    # The model computes by devices alone.
    "runtime/model": [
        "kernels/device.h", "runtime/base", "runtime/checkpoint", "runtime/arch", "runtime/comm", "runtime/step",
        "runtime/weights",
    ],
    "runtime/model/mixers": ["runtime/model"],
    "runtime/model/experts": [
        "kernels/device.h", "kernels/weight.h", "runtime/base", "runtime/checkpoint", "runtime/comm", "runtime/step",
        "runtime/weights", "runtime/model",
    ],
    "runtime/placement": ["runtime/base"],
    "runtime/recording": ["runtime/base", "runtime/placement"],
    "runtime/policy": ["runtime/base", "runtime/step", "runtime/placement"],
    "runtime/text/json": ["runtime/base"],
    "runtime/text/tokens": ["runtime/base", "runtime/text/json"],
    "runtime/text/templates": ["runtime/base", "runtime/text/json"],
    "runtime/text/grammars": ["runtime/text/tokens"],
    "runtime/text/answers": ["runtime/base", "runtime/text/tokens", "runtime/text/grammars"],
    # The engine makes steps of requests and sees no tensor.
    "runtime/engine": [
        "runtime/base", "runtime/config", "runtime/arch/config.h", "runtime/step", "runtime/recording/recorder.h",
        "runtime/text/tokens", "runtime/text/grammars", "runtime/text/answers",
    ],
    "runtime/serve": [
        "runtime/base", "runtime/recording/recorder.h", "runtime/text/json", "runtime/text/tokens",
        "runtime/text/templates", "runtime/text/answers", "runtime/engine/engine.h", "runtime/engine/request.h",
    ],
    "runtime/serve/schemas": ["runtime/text/grammars", "runtime/text/answers", "runtime/serve"],
    "runtime/serve/chat": [
        "runtime/text/json", "runtime/text/templates", "runtime/text/answers", "runtime/engine/request.h",
        "runtime/serve", "runtime/serve/schemas",
    ],
    "runtime/serve/openai": ["runtime/text/json", "runtime/engine/request.h", "runtime/serve", "runtime/serve/chat"],
    "runtime/serve/anthropic": ["runtime/serve", "runtime/serve/chat"],
    "runtime/serve/sglang": [
        "runtime/base", "runtime/recording/recorder.h", "runtime/serve", "runtime/serve/chat", "runtime/serve/openai",
    ],
    "runtime/serve/http": [
        "runtime/base", "runtime/text/grammars", "runtime/engine/engine.h", "runtime/serve", "runtime/serve/chat",
        "runtime/serve/openai", "runtime/serve/anthropic", "runtime/serve/sglang",
    ],
    "runtime/plan": [
        "kernels/device.h", "runtime/base", "runtime/config", "runtime/checkpoint", "runtime/arch", "runtime/comm", "runtime/model",
        "runtime/model/experts", "runtime/placement", "runtime/recording/counts_file.h",
        "runtime/engine/engine_options.h",
    ],
    "runtime/rank": [
        "kernels", "runtime/base", "runtime/config", "runtime/checkpoint", "runtime/arch", "runtime/comm",
        "runtime/step", "runtime/weights", "runtime/model", "runtime/model/experts", "runtime/placement",
        "runtime/recording", "runtime/policy", "runtime/engine/engine.h", "runtime/engine/engine_options.h",
        "runtime/plan",
    ],
    "runtime/client": ["runtime/base"],
    "runtime/supervise": ["runtime/base"],
    "runtime/doctor": [
        "kernels", "runtime/base", "runtime/config", "runtime/checkpoint", "runtime/arch", "runtime/comm",
        "runtime/text/tokens", "runtime/text/templates", "runtime/plan", "runtime/rank", "runtime/serve/http/port.h",
        "runtime/model/experts/kept_bank.h",
        "runtime/client",
    ],
    "launcher": [
        "kernels", "kernels/format", "runtime/base", "runtime/config", "runtime/arch", "runtime/comm",
        "runtime/weights", "runtime/convert", "runtime/model", "runtime/placement", "runtime/recording",
        "runtime/policy", "runtime/text/json", "runtime/text/tokens", "runtime/text/templates",
        "runtime/text/grammars", "runtime/text/answers", "runtime/engine", "runtime/serve/http", "runtime/plan",
        "runtime/rank", "runtime/client", "runtime/supervise", "runtime/doctor",
    ],
}

# Header of a library, by its beginning -> the only folders or files that may include it.
LIBRARIES = {
    "immintrin.h": ["kernels/cpu"],
    "x86intrin.h": ["kernels"],
    "numa": ["kernels", "runtime/comm"],
    "hwloc": ["runtime/comm/machine.cpp"],
    "cuda": ["kernels/cuda", "kernels/simt"],
    "mpi.h": ["runtime/comm/mpi.cpp", "launcher/version.cpp"],
    "ucp/": ["runtime/comm/ucx_worker.h"],
    "yaml-cpp/": ["runtime/config", "runtime/plan"],
    "boost/program_options": ["runtime/config", "launcher"],
    "boost/beast": ["runtime/serve"],
    "boost/asio": ["runtime/serve"],
    "curl/": ["runtime/client"],
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
    """The innermost folder of the table that the file is in."""
    return max((folder for folder in LAYERS if path.startswith(folder + "/")), key=len, default=None)


def permission(path, header):
    """Of the file's folder the entry that allows the header: the folder itself or one of its permissions; or None."""
    folder, home = folder_of(path), folder_of(header)
    return next((p for p in [folder] + LAYERS[folder] if p in (home, header)), None)


def complaint(path, quote, header):
    """What is wrong with one include of the file `path` (from the root), or None."""
    folder = folder_of(path)
    if folder is None:
        return "this folder is not in the table LAYERS"
    if quote == '"':
        if folder_of(header) is None:
            return f'"{header}": expected a path from the root, such as "runtime/base/error.h"'
        if permission(path, header) is None:
            return f'"{header}": {folder} may include of ours only: {", ".join([folder] + LAYERS[folder])}'
        return None
    for library, places in LIBRARIES.items():
        if header.startswith(library) and not within(path, places):
            return f"<{header}> belongs to {', '.join(places)} alone"
    return None


def faults_of_table(used):
    """What is wrong with LAYERS itself: arrows that run up, and permissions that no file uses."""
    seen = []
    for folder, permissions in LAYERS.items():
        for p in permissions:
            if (p if p in LAYERS else folder_of(p)) not in seen:
                yield f"{folder} may use {p}, which does not stand before it in the table LAYERS"
            elif (folder, p) not in used:
                yield f"{folder} may use {p} and does not: take that out of the table LAYERS"
        seen.append(folder)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    files = [f for top in ("kernels", "runtime", "launcher") for f in sorted((root / top).rglob("*"))
             if f.suffix in (".h", ".cpp", ".cu")]
    if not files:
        sys.exit(f"check_layers: no sources under {root}")
    complaints, used = 0, set()
    for file in files:
        path = file.relative_to(root).as_posix()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            wrong = match and complaint(path, match[1], match[2])
            if wrong:
                print(f"{path}:{number}: {wrong}")
                complaints += 1
            elif match and match[1] == '"':
                used.add((folder_of(path), permission(path, match[2])))
    for fault in faults_of_table(used):
        print(f"LAYERS: {fault}")
        complaints += 1
    print(f"check_layers: {len(files)} files, {complaints} complaints")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
