"""ik_llama.cpp through its Python package's table of functions, timed for end_to_end.py (arguments: cells.py).

The package has no llama-bench. Flash attention and fused experts are switched on, else all is as the library has it.
"""
import random
import sys

from cells import arguments, emit, seconds_of
from ik_llama_cpp import _ctypes_api as ik

a = arguments()
random.seed(0)
ik.llama_backend_init()
model = ik.llama_model_load_from_file(a.model.encode(), ik.llama_model_default_params())
if not model:
    sys.exit("ik_llama.cpp does not load this model")
words = ik.llama_vocab_n_tokens(ik.llama_model_get_vocab(model))
most = max(a.batch, default=1)
how = ik.llama_context_default_params()
how.n_ctx = max([*a.prefill, most * (a.context + a.steps)]) + 64
how.n_batch, how.n_ubatch, how.n_seq_max = 2048, 512, most
how.n_threads = how.n_threads_batch = a.threads
how.flash_attn = how.fused_moe_up_gate = True
context = ik.llama_init_from_model(model, how)
if not context:
    sys.exit("ik_llama.cpp makes no context for this model")


def step(rows):
    """Of (sequence, position) rows; logits of each sequence's last one."""
    batch = ik.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for i, (sequence, position) in enumerate(rows):
        batch.token[i], batch.pos[i] = random.randrange(300, words), position
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        batch.logits[i] = i + 1 == len(rows) or rows[i + 1][0] != sequence

    def decode():
        if ik.llama_decode(context, batch):
            sys.exit("ik_llama.cpp: a step failed")
        ik.llama_get_logits_ith(context, len(rows) - 1)  # is computed when this returns

    seconds = seconds_of(decode)
    ik.llama_batch_free(batch)
    return seconds


def prompts(batch, tokens):
    ik.llama_kv_cache_clear(context)
    return sum(step([(s, p) for p in range(tokens)]) for s in range(batch))


for n in a.prefill:
    emit("prefill", n, [prompts(1, n) for _ in range(a.repeats + 1)][1:], n)
for b in a.batch:
    prompts(b, a.context)
    emit("decode", b, [step([(s, a.context + i) for s in range(b)]) for i in range(a.steps)][2:], b)
