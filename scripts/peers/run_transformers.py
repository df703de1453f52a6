"""transformers' own generation on the CPU, timed for end_to_end.py (arguments: cells.py)."""
import os

from cells import arguments, emit, seconds_of

a = arguments()
os.environ["OMP_NUM_THREADS"] = str(a.threads)
import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

torch.set_num_threads(a.threads)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16).eval()


def random_tokens(rows, columns):
    return torch.randint(0, model.config.vocab_size, (rows, columns))


with torch.inference_mode():
    for n in a.prefill:
        prompt = random_tokens(1, n)
        times = [seconds_of(lambda: model(prompt, use_cache=True, logits_to_keep=1)) for _ in range(a.repeats + 1)]
        emit("prefill", n, times[1:], n)
    for b in a.batch:
        cache = model(random_tokens(b, a.context), use_cache=True, logits_to_keep=1).past_key_values
        # Random tokens: what a random model writes repeats itself, and with it the experts.
        times = [seconds_of(lambda: model(random_tokens(b, 1), past_key_values=cache, use_cache=True)) for _ in range(a.steps)]
        emit("decode", b, times[2:], b)
