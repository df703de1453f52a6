"""Drives /v1/messages with Anthropic's Python client.

messages_test.py FAKE_SERVER VENV: the server program, and the virtual environment that has the anthropic package
unless KTMPI_VENV names another. Exits with 77 when the package is not there.
"""
import subprocess
import sys

from venv_clients import need

anthropic = need("anthropic", sys.argv[2])
KEY = "a-key"
TOOLS = [{"name": "add", "description": "adds", "input_schema": {
    "type": "object", "properties": {"a": {"type": "integer"}}}}]
CALL = "<tool_call>\n<function=add>\n<parameter=a>\n5\n</parameter>\n</function>\n</tool_call>"
THINKING = "say:I think.</think>"


def ask(text, **more):
    return dict(model="claude-x", max_tokens=1000, messages=[{"role": "user", "content": text}], **more)


def whole(client):
    answer = client.messages.create(**ask(THINKING + "Hé.\n" + CALL, tools=TOOLS))
    assert [b.type for b in answer.content] == ["thinking", "text", "tool_use"], answer
    thinking, text, use = answer.content
    assert (thinking.thinking, text.text, use.name, use.input) == ("I think.", "Hé.", "add", {"a": 5}), answer
    assert answer.stop_reason == "tool_use" and answer.model == "claude-x" and answer.role == "assistant"
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0


def stream(client):
    seen = []
    with client.messages.stream(**ask(THINKING + "Hé.\n" + CALL, tools=TOOLS)) as events:
        for event in events:
            seen.append(event.type)
        final = events.get_final_message()
    assert seen[0] == "message_start" and seen[-1] == "message_stop", seen
    assert [b.type for b in final.content] == ["thinking", "text", "tool_use"], final
    assert final.content[1].text == "Hé." and final.content[2].input == {"a": 5}, final
    assert final.stop_reason == "tool_use" and final.usage.input_tokens > 0 and final.usage.output_tokens > 10, final


def a_turn_later(client):
    first = client.messages.create(**ask(THINKING + CALL, tools=TOOLS))
    history = ask("x")["messages"] + [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": first.content[1].id, "content": "6"},
                                     {"type": "text", "text": "say:done</think>Six."}]}]
    answer = client.messages.create(model="m", max_tokens=100, messages=history, tools=TOOLS)
    assert answer.content[-1].text == "Six." and answer.stop_reason == "end_turn", answer


def limits(client):
    cut = client.messages.create(model="m", max_tokens=3, messages=[{"role": "user", "content": "say:</think>abcdef"}])
    assert cut.stop_reason == "max_tokens", cut
    counted = client.messages.count_tokens(model="m", messages=ask("hello")["messages"], tools=TOOLS)
    assert counted.input_tokens == client.messages.create(**ask("hello", tools=TOOLS)).usage.input_tokens


def errors(client, url):
    def expect(kind, words, call):
        try:
            call()
        except kind as error:
            assert words in str(error), error
            return
        raise AssertionError(f"expected {kind.__name__}")

    expect(anthropic.BadRequestError, "prompt is too long: ", lambda: client.messages.create(**ask("x" * 2100)))
    expect(anthropic.BadRequestError, "no such words", lambda: client.messages.create(**ask("REFUSE")))
    expect(anthropic.BadRequestError, "invalid_request_error", lambda: client.messages.create(**ask("x", extra_body={"temperature": -1})))
    stranger = anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0)
    expect(anthropic.AuthenticationError, "authentication_error", lambda: stranger.messages.create(**ask("x")))
    bearer = anthropic.Anthropic(base_url=url, auth_token=KEY, max_retries=0)
    bearer.messages.create(**ask("x"), extra_query={"beta": "true"})


def main():
    server = subprocess.Popen([sys.argv[1], KEY, "qwen3_coder", "qwen3"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        client = anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0, timeout=20)
        for check in (whole, stream, a_turn_later, limits):
            check(client)
            print("passed", check.__name__)
        errors(client, url)
        print("passed errors")
    finally:
        server.stdin.close()
        assert server.wait(timeout=20) == 0


main()
