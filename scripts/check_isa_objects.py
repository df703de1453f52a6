#!/usr/bin/env python3
"""Holds each object that is compiled for one instruction set to a single symbol that others can see: its table.

    scripts/check_isa_objects.py OBJECT ...

Inline functions and templates of such a file would be weak symbols; the linker may pick them for the whole program,
which then dies on an older processor.
"""
import subprocess
import sys


def visible_symbols(path):
    """(type, name) of all defined symbols that are not local. nm: upper case is global; u, v and w are weak or unique."""
    text = subprocess.run(["nm", "-C", "--defined-only", path], check=True, capture_output=True, text=True).stdout
    symbols = [line.split(maxsplit=2)[1:] for line in text.splitlines() if line.strip()]
    return [(kind, name) for kind, name in symbols if kind.isupper() or kind in "uvw"]


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: check_isa_objects.py OBJECT ...")
    bad = 0
    for path in sys.argv[1:]:
        symbols = visible_symbols(path)
        if len(symbols) == 1 and symbols[0][0] in "RDB":
            print(f"{path}: {symbols[0][1]}")
            continue
        bad += 1
        print(f"{path}: expected one symbol of type R, D or B, the table; found {len(symbols)}")
        for kind, name in symbols:
            print(f"  {kind} {name}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
