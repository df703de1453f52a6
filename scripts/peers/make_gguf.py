"""llama.cpp's converter for a model of make_models.py: make_gguf.py LLAMA_CPP MODEL OUT.gguf

The converter knows tokenizers by a hash; that of bytes alone, which nobody else has, it is told to take for qwen2's.
"""
import os
import runpy
import sys

root, model, out = sys.argv[1:]
sys.path[:0] = [root, os.path.join(root, "gguf-py")]
from conversion import base  # noqa: E402

for kind in (base.ModelBase, base.TextModel):
    if hasattr(kind, "get_vocab_base_pre"):
        kind.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", out, "--outtype", "bf16"]
if "next" in os.path.basename(model):
    sys.argv.append("--no-mtp")
runpy.run_path(os.path.join(root, "convert_hf_to_gguf.py"), run_name="__main__")
