#!/usr/bin/python3
"""ktmpi beside other programs on this machine, by turns.

    scripts/bench_peers.py layers [OPTION ...]        expert layers alone: kt-kernel, oneDNN
    scripts/bench_peers.py end-to-end [OPTION ...]    whole models: llama.cpp, ik_llama.cpp, vLLM, transformers
    scripts/bench_peers.py accuracy [OPTION ...]      what precision costs: llama.cpp's types

The first run installs the programs of its kind into build/peers, in environments of their own. --help after either word
says more.
"""
import sys

from peers import accuracy, end_to_end, layers

KINDS = {"layers": layers, "end-to-end": end_to_end, "accuracy": accuracy}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in KINDS:
        sys.exit(__doc__.strip())
    kind = sys.argv.pop(1)
    sys.argv[0] += " " + kind
    KINDS[kind].main()
