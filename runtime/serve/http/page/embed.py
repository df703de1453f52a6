"""embed.py TO.cpp INDEX.html NAME=FILE...: writes kt::page_index() and kt::page_files().

Files lie below a folder that is named by what they hold: a browser may keep them for ever. VERSION in the index stands
for it. What shrinks is compressed; all of it goes into one file beside TO.cpp, which the assembler takes in as it is.
"""
import gzip
import hashlib
import sys

TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "woff2": "font/woff2"}

target, index, *files = sys.argv[1:]
blob, rows, digest = b"", [], hashlib.sha256()
for name, _, path in sorted(f.partition("=") for f in files):
    with open(path, "rb") as file:
        data = file.read()
    digest.update(name.encode() + b"\0" + data)
    small = gzip.compress(data, 9, mtime=0)
    packed = len(small) < 0.9 * len(data)
    held = small if packed else data
    rows.append((name, TYPES[name.rpartition(".")[2]], "gzip" if packed else "", len(blob), len(held)))
    blob += held
version = digest.hexdigest()[:16]
with open(index, encoding="utf-8") as file:
    text = file.read().replace("VERSION", version)

with open(target + ".bin", "wb") as file:
    file.write(blob)
table = ",\n".join(f'    {{"{version}/{name}", "{kind}", "{encoding}", {{kt_page_blob + {at}, {size}}}}}'
                   for name, kind, encoding, at, size in rows)
with open(target, "w", encoding="utf-8") as file:
    file.write(f'''#include "runtime/serve/http/page.h"

asm(R"(.section .rodata
.globl kt_page_blob
.hidden kt_page_blob
kt_page_blob:
.incbin "{target}.bin"
.previous
)");
extern "C" __attribute__((visibility("hidden"))) const char kt_page_blob[];

std::string_view kt::page_index() {{ return R"page({text})page"; }}

std::span<const kt::PageFile> kt::page_files() {{
  static const PageFile files[] = {{
{table}}};
  return files;
}}
''')
