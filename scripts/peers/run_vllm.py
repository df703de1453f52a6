"""vLLM's engine on the CPU, timed for end_to_end.py (arguments: cells.py)."""
import os
import random

from cells import arguments, emit, seconds_of

a = arguments()
os.environ.update({"VLLM_CPU_OMP_THREADS_BIND": f"0-{a.threads - 1}", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
                   "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1",
                   "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"})
from vllm import LLM, SamplingParams  # noqa: E402


def main():
    random.seed(0)
    llm = LLM(model=a.model, skip_tokenizer_init=True, dtype="bfloat16", max_model_len=4096, max_num_seqs=16,
              max_num_batched_tokens=4096, enable_prefix_caching=False, seed=0)

    def write(batch, prompt, tokens):
        # Temperature 1 over a nearly flat distribution: other tokens, and with them other experts, at every step.
        how = SamplingParams(temperature=1.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, detokenize=False)
        prompts = [{"prompt_token_ids": [random.randrange(300, 32000) for _ in range(prompt)]} for _ in range(batch)]
        return seconds_of(lambda: llm.generate(prompts, how, use_tqdm=False))

    write(1, 64, 4)
    for n in a.prefill:
        emit("prefill", n, [write(1, n, 1) for _ in range(a.repeats + 1)][1:], n)
    for b in a.batch:
        # The prompts' part is taken off.
        emit("decode", b, [write(b, a.context, a.steps + 2) - write(b, a.context, 2) for _ in range(a.repeats)], b * a.steps)


if __name__ == "__main__":
    main()
