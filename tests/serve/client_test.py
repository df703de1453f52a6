"""Drives the HTTP server with openai-python.

client_test.py FAKE_SERVER VENV: the server program, and the virtual environment that has the openai package unless
KTMPI_VENV names another. Exits with 77 when the package is not there.
"""
import contextlib
import json
import subprocess
import sys

from venv_clients import need

openai = need("openai", sys.argv[2])
KEY = "a-key"


def expect_error(kind, call, *words):
    try:
        call()
    except kind as error:
        for word in words:
            assert word in str(error), (word, str(error))
        return error
    raise AssertionError(f"expected {kind.__name__}")


def user(text):
    return [{"role": "user", "content": text}]


def models(client):
    listed = client.models.list().data
    assert [m.id for m in listed] == ["fake/model"], listed
    assert client.models.retrieve("fake/model").id == "fake/model"
    expect_error(openai.NotFoundError, lambda: client.models.retrieve("other"), "other")


def chat(client):
    answer = client.chat.completions.create(model="any", messages=user("hé"))
    choice = answer.choices[0]
    assert choice.message.content == "user:hé;assistant:", choice
    assert choice.message.role == "assistant" and choice.finish_reason == "stop"
    assert answer.model == "any" and answer.object == "chat.completion"
    assert answer.usage.prompt_tokens == 19 and answer.usage.completion_tokens == 20, answer.usage
    cut = client.chat.completions.create(model="m", messages=user("x"), max_completion_tokens=3)
    assert cut.choices[0].finish_reason == "length" and cut.choices[0].message.content == "use"


def chat_stream(client):
    text, ids, finish, usage = "", set(), [], None
    stream = client.chat.completions.create(
        model="m", messages=user("€uro"), stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        ids.add(chunk.id)
        if not chunk.choices:
            usage = chunk.usage
            continue
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        if choice.finish_reason:
            finish.append(choice.finish_reason)
            assert not choice.delta.content
    assert text == "user:€uro;assistant:", text
    assert len(ids) == 1 and finish == ["stop"]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def several_choices(client):
    answer = client.chat.completions.create(model="m", messages=user("x"), n=3, seed=7)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert answer.usage.prompt_tokens * 3 + 3 == answer.usage.completion_tokens
    texts, ends = ["", ""], set()
    for chunk in client.chat.completions.create(model="m", messages=user("x"), n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends.add(choice.index)
    assert texts == ["user:x;assistant:"] * 2 and ends == {0, 1}


def logprobs(client):
    answer = client.chat.completions.create(model="m", messages=user("x"), logprobs=True, top_logprobs=2, max_tokens=2)
    content = answer.choices[0].logprobs.content
    assert [t.token for t in content] == ["u", "s"] and content[0].bytes == [ord("u")]
    assert [t.logprob for t in content] == [-0.125, -0.25]
    assert [t.token for t in content[0].top_logprobs] == ["u", "v"]


def completions(client):
    answer = client.completions.create(model="m", prompt=["ab", "cd"], echo=True, logprobs=1, max_tokens=1)
    assert [c.text for c in answer.choices] == ["aba", "cdc"], answer
    first = answer.choices[0].logprobs
    assert first.tokens == ["a", "b", "a"] and first.token_logprobs[0] is None and first.text_offset == [0, 1, 2]
    text = "".join(c.choices[0].text for c in client.completions.create(model="m", prompt="hello", stream=True))
    assert text == "hello", text
    by_ids = client.completions.create(model="m", prompt=[104, 105])
    assert by_ids.choices[0].text == "hi"


def errors(client, url):
    chats = client.chat.completions
    error = expect_error(openai.BadRequestError, lambda: chats.create(model="m", messages=user("x"), temperature=-1), "temperature")
    assert error.param == "temperature" and error.type == "invalid_request_error"
    expect_error(openai.BadRequestError, lambda: chats.create(model="m", messages=[]), "messages")
    expect_error(openai.BadRequestError, lambda: chats.create(model="m", messages=user("REFUSE"), stream=True), "no such words")
    long = expect_error(openai.BadRequestError, lambda: chats.create(model="m", messages=user("x" * 2100), stream=True))
    assert long.code == "context_length_exceeded"
    stranger = openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0)
    expect_error(openai.AuthenticationError, stranger.models.list)
    nowhere = openai.OpenAI(base_url=url + "/v2", api_key=KEY, max_retries=0)
    expect_error(openai.NotFoundError, nowhere.models.list)


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}, "why": {"type": "string"}}}}}]
ANSWERS = {  # the same thought, words and calls as the families write them
    "qwen3_coder": "Let me add.</think>Adding.\n" + "".join(
        f"<tool_call>\n<function=add>\n<parameter=a>\n{a}\n</parameter>\n<parameter=why>\nas <b>\n</parameter>\n"
        "</function>\n</tool_call>\n" for a in (1, 2)),
    "kimi_k2": "Let me add.</think>Adding.<|tool_calls_section_begin|>" + "".join(
        f'<|tool_call_begin|>functions.add:{a - 1}<|tool_call_argument_begin|>{{"a": {a}, "why": "as <b>"}}'
        "<|tool_call_end|>" for a in (1, 2)) + "<|tool_calls_section_end|>",
}


def tools_and_reasoning(client, parser):
    def check(content, reasoning, calls, finish):
        assert (content, reasoning, finish) == ("Adding.", "Let me add.", "tool_calls"), (content, reasoning, finish)
        assert [c["name"] for c in calls] == ["add", "add"], calls
        assert [json.loads(c["arguments"]) for c in calls] == [{"a": 1, "why": "as <b>"}, {"a": 2, "why": "as <b>"}]
        if parser == "kimi_k2":
            assert [c["id"] for c in calls] == ["functions.add:0", "functions.add:1"], calls
        else:
            assert len({c["id"] for c in calls if c["id"].startswith("call_")}) == 2, calls

    ask = dict(model="m", messages=user("say:" + ANSWERS[parser]), tools=TOOLS)
    answer = client.chat.completions.create(**ask)
    message = answer.choices[0].message
    check(message.content, message.reasoning_content,
          [{"id": c.id, "name": c.function.name, "arguments": c.function.arguments} for c in message.tool_calls],
          answer.choices[0].finish_reason)
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0

    content = reasoning = ""
    calls, finish = [], None
    for chunk in client.chat.completions.create(stream=True, **ask):
        delta = chunk.choices[0].delta
        content += delta.content or ""
        reasoning += getattr(delta, "reasoning_content", None) or ""
        for call in delta.tool_calls or []:
            if call.id:
                assert call.index == len(calls) and call.type == "function"
                calls.append({"id": call.id, "name": call.function.name, "arguments": ""})
            calls[call.index]["arguments"] += call.function.arguments
        finish = chunk.choices[0].finish_reason or finish
    check(content, reasoning, calls, finish)


@contextlib.contextmanager
def serving(*parsers):
    server = subprocess.Popen([sys.argv[1], KEY, *parsers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        yield openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=20), url
    finally:
        server.stdin.close()
        assert server.wait(timeout=20) == 0


def main():
    with serving() as (client, url):
        for check in (models, chat, chat_stream, several_choices, logprobs, completions):
            check(client)
            print("passed", check.__name__)
        errors(client, url)
        print("passed errors")
    for parser, reasoning in (("qwen3_coder", "qwen3"), ("kimi_k2", "kimi_k2")):
        with serving(parser, reasoning) as (client, url):
            tools_and_reasoning(client, parser)
            print("passed tools_and_reasoning", parser)


main()
