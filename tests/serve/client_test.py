"""Drives the HTTP server with openai-python.

client_test.py FAKE_SERVER VENV: the server program, and the virtual environment that has the openai package unless
KTMPI_VENV names another. Exits with 77 when the package is not there.
"""
import os
import subprocess
import sys

KEY = "a-key"


def enter_venv(venv):
    python = os.path.join(venv, "bin", "python")
    if sys.prefix != os.path.abspath(venv) and os.path.exists(python):
        os.execv(python, [python] + sys.argv)


enter_venv(os.environ.get("KTMPI_VENV", sys.argv[2]))
try:
    import openai
except ImportError:
    print("skipped: the openai package is not installed in", os.environ.get("KTMPI_VENV", sys.argv[2]))
    sys.exit(77)


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
    long = expect_error(openai.BadRequestError, lambda: chats.create(model="m", messages=user("x" * 600), stream=True))
    assert long.code == "context_length_exceeded"
    stranger = openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0)
    expect_error(openai.AuthenticationError, stranger.models.list)
    nowhere = openai.OpenAI(base_url=url + "/v2", api_key=KEY, max_retries=0)
    expect_error(openai.NotFoundError, nowhere.models.list)


def main():
    server = subprocess.Popen([sys.argv[1], KEY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=20)
        for check in (models, chat, chat_stream, several_choices, logprobs, completions):
            check(client)
            print("passed", check.__name__)
        errors(client, url)
        print("passed errors")
    finally:
        server.stdin.close()
        assert server.wait(timeout=20) == 0


main()
