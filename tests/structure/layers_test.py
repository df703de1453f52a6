#!/usr/bin/env python3
"""check_layers.py must find what it is there to find: layers_test.py CHECK_LAYERS."""
import importlib.util
import pathlib
import subprocess
import sys
import tempfile

BAD = {
    "runtime/serve/a.cpp": '#include "kernels/ops.h"',
    "runtime/serve/b.cpp": '#include "runtime/arch/config.h"',
    "runtime/model/c.cpp": "#include <mpi.h>",
    "runtime/model/forward.cpp": '#include "runtime/model/experts/moe_room.h"',
    "runtime/model/mixers/attention.cpp": '#include "kernels/ops.h"',
    "runtime/comm/d.cpp": "#include <mpi.h>",
    "runtime/arch/e.cpp": '#include "runtime/step/step.h"',
    "runtime/engine/f.cpp": "#include <immintrin.h>",
    "kernels/g.cpp": '#include "runtime/base/error.h"',
    "runtime/text/tokens/h.cpp": '#include "tokenizer.h"',
    "runtime/new_folder/i.cpp": "#include <vector>",
}
GOOD = {
    "runtime/comm/mpi.cpp": "#include <mpi.h>",
    "runtime/arch/j.cpp": '#include "runtime/arch/config.h"',
    "kernels/cpu/k.cpp": '#include <immintrin.h>\n#include "kernels/ops.h"',
}

with tempfile.TemporaryDirectory() as root:
    for path, text in {**BAD, **GOOD}.items():
        file = pathlib.Path(root, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    run = subprocess.run([sys.executable, sys.argv[1], root], capture_output=True, text=True)

found = {line.split(":")[0] for line in run.stdout.splitlines() if ": " in line and line[0] in "rk"}
if run.returncode != 1 or found != set(BAD):
    sys.exit(f"expected complaints about {sorted(BAD)}, found {sorted(found)}\n{run.stdout}{run.stderr}")

spec = importlib.util.spec_from_file_location("check_layers", sys.argv[1])
check_layers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_layers)
check_layers.LAYERS = {"low": [], "mid": ["low", "top/a.h"], "top": ["low", "mid"]}
faults = list(check_layers.faults_of_table({("mid", "low"), ("top", "mid")}))
if len(faults) != 2 or "mid may use top/a.h" not in faults[0] or "top may use low and does not" not in faults[1]:
    sys.exit(f"expected an arrow up and a permission that is not used, found {faults}")
