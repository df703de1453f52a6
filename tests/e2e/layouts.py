"""Answers of a model on several layouts of a job, and that their bytes are the same."""
from concurrent.futures import ThreadPoolExecutor

from ktmpi_server import Server

TOP = 8


def greedy(ids, steps, **more):
    return {"input_ids": ids, "return_logprob": True, "top_logprobs_num": TOP, **more,
            "sampling_params": {"temperature": 0, "max_new_tokens": steps, "ignore_eos": True}}


def bytes_of(answer):
    """All that must not depend on the job; Python reads back exactly the float that was written."""
    meta = answer["meta_info"]
    keys = ("input_token_logprobs", "input_top_logprobs", "output_token_logprobs", "output_top_logprobs")
    return {"output_ids": answer["output_ids"], **{k: meta[k] for k in keys if k in meta}}


def answers_of_job(server, prompts):
    alone = {n: bytes_of(server.generate(greedy(*prompt))) for n, prompt in prompts.items()}
    batch = [n for n in prompts if n.startswith("batch")]
    with ThreadPoolExecutor(len(prompts)) as pool:
        for names in (batch, batch[::-1], list(prompts)):
            together = list(pool.map(lambda n: bytes_of(server.generate(greedy(*prompts[n]))), names))
            for name, answer in zip(names, together):
                expect_same(answer, alone[name], f"{name} among {len(names)} at once")
    for name, (ids, _) in prompts.items():
        alone[f"prompt of {name}"] = bytes_of(server.generate(greedy(ids, 1, logprob_start_len=0)))
    return alone


def expect_same(found, expected, where):
    for key, value in expected.items():
        if found[key] == value:
            continue
        if isinstance(value, list):
            at = next(i for i, (x, y) in enumerate(zip(found[key] + [None], value + [None])) if x != y)
            raise AssertionError(f"{where}: {key}[{at}]: {(found[key] + [None])[at]}, expected {(value + [None])[at]}")
        raise AssertionError(f"{where}: {key}: {found[key]}, expected {value}")


def run_layouts(program, fixture, prompts, layouts, first=None, then=None):
    """Every layout (ranks, options, environment variables) must give `first`, or what the first gives; returns that.
    `then` is called with each server and its options before it stops."""
    for world, options, variables in layouts:
        layout = " ".join([f"{world} ranks", *map(str, options), *(f"{k}={v}" for k, v in variables.items())])
        with Server(program, fixture, world, options, variables) as server:
            answers = answers_of_job(server, prompts)
            if then:
                then(server, options)
        first = first or answers
        for name, answer in answers.items():
            expect_same(answer, first[name], f"{name} on {layout}")
        print(f"  {layout}: same bytes", flush=True)
    return first
