"""Answers of a model with random weights have the form that the client demands, on whatever number of ranks.

    structured_test.py --program KTMPI FIXTURE [--requests 200]

Through openai-python: JSON schemas, also streamed and several at once, tool calls, forced or strict and beside a
schema, mistakes. Every answer that
ends by itself must match, and the same seed gives the same answer on one rank and on three. Plain requests between
200 structured ones are answered as alone.
"""
import argparse
import json
import re
from concurrent.futures import ThreadPoolExecutor

from ktmpi_server import Server, enter_venv, fixtures, need_program, skip

COLOURS = ["red", "green", "blue"]
SCHEMA = {"type": "object", "additionalProperties": False, "required": ["colour", "on", "count", "word", "list"],
          "properties": {"colour": {"enum": COLOURS}, "on": {"type": "boolean"},
                         "count": {"type": "integer", "minimum": 0, "maximum": 99},
                         "word": {"type": "string", "maxLength": 6},
                         "list": {"type": "array", "items": {"type": ["null", "boolean"]}, "maxItems": 3}}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {
    "type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"],
    "$defs": {"n": {"type": "integer", "minimum": low, "maximum": low + 9}}}}} for name, low in (("low", 0), ("high", 90))]
LENGTH = 600  # tokens, beyond what the schema's longest answer takes
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


def user(text):
    return [{"role": "user", "content": text}]


def check_object(text):
    value = json.loads(text)
    assert list(value) == SCHEMA["required"], value
    assert value["colour"] in COLOURS and value["on"] in (True, False), value
    assert type(value["count"]) is int and 0 <= value["count"] <= 99 and len(value["word"]) <= 6, value
    assert len(value["list"]) <= 3 and all(x in (None, True, False) for x in value["list"]), value
    return value


def schema_ask(seed, **more):
    return dict(model="m", messages=user("Which colour?"), max_tokens=LENGTH, seed=seed, extra_body=NO_THINKING,
                response_format={"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}},
                **more)


def objects(client):
    """Their texts by seed."""
    texts = {}
    for seed in range(8):
        choice = client.chat.completions.create(**schema_ask(seed)).choices[0]
        assert choice.finish_reason == "stop", choice
        check_object(choice.message.content)
        texts[seed] = choice.message.content
    both = client.chat.completions.create(**schema_ask(0, n=2)).choices
    assert [c.message.content for c in both] == [texts[0], texts[1]], both
    stream = client.chat.completions.create(**schema_ask(2, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == texts[2]
    return texts


def thinking(client):
    body = dict(schema_ask(1), extra_body={"chat_template_kwargs": {"enable_thinking": True}},
                max_tokens=1500)
    choice = client.chat.completions.create(**body).choices[0]
    if choice.finish_reason == "stop":
        check_object(choice.message.content)


def calls(client):
    for seed, (choice, parallel) in enumerate([("required", True), ("required", False),
                                               ({"type": "function", "function": {"name": "high"}}, True)]):
        answer = client.chat.completions.create(
            model="m", messages=user("Go."), tools=TOOLS, tool_choice=choice, parallel_tool_calls=parallel, seed=seed,
            temperature=0.5, max_tokens=LENGTH, extra_body=NO_THINKING).choices[0]
        made = [(c.function.name, json.loads(c.function.arguments)["n"]) for c in answer.message.tool_calls or []]
        assert all(0 <= n - {"low": 0, "high": 90}[name] <= 9 for name, n in made), made
        if answer.finish_reason == "length":  # it never stopped calling
            assert choice == "required" and parallel, answer
            continue
        assert answer.finish_reason == "tool_calls" and not answer.message.content, answer
        assert len(made) == 1 or (choice == "required" and parallel), made
        assert isinstance(choice, str) or made[0][0] == "high", made


def strict_calls(server, client):
    """Strict calls in the model's own form, alone and instead of a demanded object. A bias towards the token that begins
    either chooses for a model that knows nothing."""
    tools = [dict(tool, function=dict(tool["function"], strict=True)) for tool in TOOLS]
    for form in ({}, {"response_format": schema_ask(0)["response_format"]}):
        for begin in ("<tool_call>", "{"):
            (token,) = server.post("/tokenize", {"prompt": begin})[1]["tokens"]
            answer = client.chat.completions.create(
                model="m", messages=user("Go."), tools=tools, parallel_tool_calls=False, logit_bias={str(token): 100},
                seed=3, max_tokens=20 if begin == "{" and not form else LENGTH, extra_body=NO_THINKING, **form).choices[0]
            if begin == "<tool_call>":
                (call,) = answer.message.tool_calls
                n = json.loads(call.function.arguments)["n"]
                assert answer.finish_reason == "tool_calls" and not answer.message.content, answer
                assert type(n) is int and 0 <= n - {"low": 0, "high": 90}[call.function.name] <= 9, answer
            else:
                assert not answer.message.tool_calls and answer.message.content, answer
                if form:
                    check_object(answer.message.content)


def mistakes(openai, client):
    for form, words in (({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "what"}}}, "what"),
                        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}, "not")):
        try:
            client.chat.completions.create(model="m", messages=user("x"), response_format=form)
        except openai.BadRequestError as error:
            assert words in str(error), error
        else:
            raise AssertionError(f"accepted: {form}")


def many(server, requests):
    """Plain and structured ones at once, five plain ones among every hundred; no form is like another."""
    plain = {"text": "hello", "sampling_params": {"max_new_tokens": 20, "temperature": 0, "ignore_eos": True}}
    alone = server.generate(plain)["output_ids"]

    def one(i):
        if i % 20 == 0:
            assert server.generate(plain)["output_ids"] == alone, i
            return
        pattern = f"(yes|no){{1,{i % 40 + 1}}}-{i}"
        answer = server.generate({"text": "hello", "sampling_params": {
            "max_new_tokens": 200, "temperature": 1, "regex": pattern, "sampling_seed": i}})
        ended = answer["meta_info"]["finish_reason"]["type"]
        assert ended == "stop" and re.fullmatch(pattern, answer["text"]), (i, ended, answer["text"])

    with ThreadPoolExecutor(requests) as pool:
        list(pool.map(one, range(requests)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture", help="a name under fixtures/models, or a folder")
    parser.add_argument("--program", required=True)
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    enter_venv()
    try:
        import openai
    except ImportError:
        skip("the openai package is not installed")
    program, model = need_program(options.program), f"{fixtures()}/{options.fixture}"

    texts = {}
    for world in (1, 3):
        with Server(program, model, world=world, options=["--tool-call-parser", "qwen3_coder",
                                                          "--reasoning-parser", "qwen3"]) as server:
            client = openai.OpenAI(base_url=f"http://{server.address}/v1", api_key="-", max_retries=0, timeout=120)
            texts[world] = objects(client)
            calls(client)
            strict_calls(server, client)
            if world == 3:
                thinking(client)
                mistakes(openai, client)
                many(server, options.requests)
        print(f"passed on {world} ranks", flush=True)
    assert texts[1] == texts[3], texts


main()
