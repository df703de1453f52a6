"""Drives /v1/responses with openai-python's `client.responses`.

responses_test.py FAKE_SERVER VENV: the server program, and the virtual environment that has the openai package unless
KTMPI_VENV names another. Exits with 77 when the package is not there.
"""
import json
import subprocess
import sys
import threading

from venv_clients import need

openai = need("openai", sys.argv[2])
import pydantic

KEYS = ("a-key", "another-key")
CALL = "<tool_call>\n<function=add>\n<parameter=a>\n5\n</parameter>\n</function>\n</tool_call>"
ADD = {"type": "function", "name": "add", "description": "adds", "strict": True,
       "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
                      "additionalProperties": False}}


class Sum(pydantic.BaseModel):
    a: int


def expect(kind, words, call):
    try:
        call()
    except kind as error:
        assert words in str(error), error
        return error
    raise AssertionError(f"expected {kind.__name__}")


def say(text):
    return f"say:I think.</think>{text}"


def whole(client):
    answer = client.responses.create(model="m", input=say("Hé."), instructions="Be brief.", metadata={"a": "b"})
    assert [item.type for item in answer.output] == ["reasoning", "message"], answer
    assert answer.output_text == "Hé." and answer.status == "completed", answer
    assert answer.output[0].content[0].text == "I think.", answer
    assert answer.metadata == {"a": "b"} and answer.instructions == "Be brief." and answer.tools == []
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens > 0, usage
    assert usage.output_tokens_details.reasoning_tokens > 0 and usage.input_tokens_details.cached_tokens == 0
    counted = client.responses.input_tokens.count(model="m", input=say("Hé."), instructions="Be brief.")
    assert counted.input_tokens == usage.input_tokens, (counted, usage)
    cut = client.responses.create(model="m", input=say("abcdef"), max_output_tokens=20)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens", cut


def stream(client):
    seen, text, thought = [], "", ""
    for event in client.responses.create(model="m", input=say("€uro\n" + CALL), tools=[ADD], stream=True):
        assert event.sequence_number == len(seen)
        seen.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type == "response.reasoning_text.delta":
            thought += event.delta
    assert seen[0] == "response.created" and seen[-1] == "response.completed", seen
    assert text == "€uro" and thought == "I think.", (text, thought)
    assert event.response.output[-1].arguments == '{"a": 5}', event


def stream_helper(client):
    snapshots = []
    with client.responses.stream(model="m", input=say("Hello.\n" + CALL), tools=[ADD]) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                snapshots.append(event.snapshot)
        final = events.get_final_response()
    assert snapshots[-1] == "Hello." and final.output_text == "Hello.", final
    assert final.output[-1].parsed_arguments == {"a": 5}, final.output[-1]


def parse(client):
    answer = client.responses.parse(model="m", input=say('{"a": 7}'), text_format=Sum)
    assert answer.output_parsed == Sum(a=7), answer
    with client.responses.stream(model="m", input=say('{"a": 8}'), text_format=Sum) as events:
        assert events.get_final_response().output_parsed == Sum(a=8)
    forced = client.responses.create(model="m", input=say('[{"name": "add", "parameters": {"a": 5}}]'), tools=[ADD],
                                     tool_choice="required")
    assert [(c.name, c.arguments) for c in forced.output if c.type == "function_call"] == [("add", '{"a": 5}')], forced


def kept(client, stranger):
    answer = client.responses.create(model="m", input=[
        {"role": "user", "content": "one"}, {"role": "user", "content": [{"type": "input_text", "text": say("x")}]}])
    again = client.responses.retrieve(answer.id)
    assert again.to_dict() == answer.to_dict(), (again, answer)
    items = list(client.responses.input_items.list(answer.id, order="asc", limit=1))
    assert [item.content[0].text for item in items] == ["one", say("x")], items
    newest = client.responses.input_items.list(answer.id)
    assert [item.id for item in newest.data] == [item.id for item in reversed(items)] and not newest.has_more
    more = client.responses.create(model="m", input=say("y"), previous_response_id=answer.id)
    assert more.previous_response_id == answer.id and more.usage.input_tokens > answer.usage.input_tokens
    expect(openai.BadRequestError, "has ended", lambda: client.responses.cancel(answer.id))
    for call in (stranger.responses.retrieve, stranger.responses.delete, stranger.responses.input_items.list,
                 stranger.responses.cancel):
        expect(openai.NotFoundError, answer.id, lambda: call(answer.id))
    client.responses.delete(answer.id)
    expect(openai.NotFoundError, answer.id, lambda: client.responses.retrieve(answer.id))
    lost = expect(openai.BadRequestError, "not stored any more",
                  lambda: client.responses.create(model="m", input="x", previous_response_id=more.id))
    assert lost.code == "previous_response_not_found", lost
    unkept = client.responses.create(model="m", input="x", store=False)
    expect(openai.NotFoundError, unkept.id, lambda: client.responses.retrieve(unkept.id))


def cancel(client):
    """From another thread, while the stream is read."""
    kinds, cancelled = [], []

    def end(response):
        assert client.responses.retrieve(response).status == "in_progress"
        cancelled.append(client.responses.cancel(response).status)

    for event in client.responses.create(model="m", input=say("x" * 1500), stream=True):
        if event.type == "response.created":
            ender = threading.Thread(target=end, args=(event.response.id,))
            ender.start()
        kinds.append(event.type)
    ender.join()
    assert cancelled == ["cancelled"] and kinds[-1] == "response.incomplete", (cancelled, kinds[-3:])
    assert event.response.status == "cancelled" and len(kinds) < 1500, event.response.status
    assert client.responses.retrieve(event.response.id).status == "cancelled"


def tool_loop(client):
    """As the Agents SDK runs it: calls are answered by call_id until there are none, with the store and without."""
    question = {"role": "user", "content": say("I call.\n" + CALL + "\n" + CALL)}
    counts = []
    for stored in (True, False):
        answer = client.responses.create(model="m", input=[question], tools=[ADD], store=stored,
                                         include=["reasoning.encrypted_content"])
        calls = [item for item in answer.output if item.type == "function_call"]
        assert len(calls) == 2 and len({call.call_id for call in calls}) == 2, answer
        results = [{"type": "function_call_output", "call_id": call.call_id,
                    "output": str(json.loads(call.arguments)["a"] + 1)} for call in calls]
        results[1]["output"] = [{"type": "input_text", "text": results[1]["output"]}]
        results.append({"role": "user", "content": say("Six.")})
        if stored:
            last = client.responses.create(model="m", input=results, tools=[ADD], previous_response_id=answer.id)
        else:
            history = [question] + [item.to_dict() for item in answer.output] + results
            last = client.responses.create(model="m", input=history, tools=[ADD], store=False)
        assert last.output_text == "Six." and last.status == "completed", last
        counts.append(last.usage.input_tokens)
    assert counts[0] == counts[1], counts


def codex(client):
    """What Codex sends: tools of every kind, a custom one that edits files, everything again in each turn."""
    tools = [ADD, {"type": "web_search", "external_web_access": False}, {"type": "image_generation"},
             {"type": "custom", "name": "apply_patch", "description": "A FREEFORM tool.",
              "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}},
             {"type": "namespace", "name": "mcp__files", "description": "Files.",
              "tools": [{"type": "function", "name": "read", "parameters": {"type": "object", "properties": {}}}]}]
    patch = "*** Begin Patch\n*** Add File: a\n+\"hé\"\n*** End Patch"
    call = f"<tool_call>\n<function=apply_patch>\n<parameter=input>\n{patch}\n</parameter>\n</function>\n</tool_call>"
    read = "<tool_call>\n<function=mcp__files__read>\n</function>\n</tool_call>"
    more = dict(model="m", instructions="You are a coding agent.", tools=tools, tool_choice="auto", store=False,
                parallel_tool_calls=False, reasoning={"effort": "medium", "summary": "auto"}, stream=True,
                include=["reasoning.encrypted_content"], prompt_cache_key="c", text={"verbosity": "low"},
                extra_body={"client_metadata": {"x": "y"}})
    history = [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "permissions"}]},
               {"type": "message", "role": "user", "content": [{"type": "input_text", "text": say(call)}]}]
    for expected in ("custom_tool_call", "function_call", "message"):
        done = [event.item.to_dict() for event in client.responses.create(input=history, **more)
                if event.type == "response.output_item.done"]
        assert [item["type"] for item in done] == ["reasoning", expected], done
        assert done[0]["summary"][0]["text"] == "I think.", done[0]
        if expected == "custom_tool_call":
            assert done[1]["name"] == "apply_patch" and done[1]["input"] == patch, done[1]
            history += done + [{"type": "custom_tool_call_output", "call_id": done[1]["call_id"], "output": "Done"},
                               {"role": "user", "content": say(read)}]
        elif expected == "function_call":
            assert (done[1]["name"], done[1]["namespace"]) == ("read", "mcp__files"), done[1]
            history += done + [{"type": "function_call_output", "call_id": done[1]["call_id"], "output": "hé"},
                               {"role": "user", "content": say("Done.")}]


def errors(client):
    bad, ask = openai.BadRequestError, client.responses.create
    assert expect(bad, "background", lambda: ask(model="m", input="x", background=True)).param == "background"
    expect(bad, "web_search", lambda: ask(model="m", input="x", tools=[{"type": "web_search"}]))
    expect(bad, "no such words", lambda: ask(model="m", input="REFUSE"))
    too_long = expect(bad, "context", lambda: ask(model="m", input="x" * 3000))
    assert too_long.code == "context_length_exceeded" and too_long.param == "input", too_long
    *_, failed = ask(model="m", input="x" * 3000, stream=True)
    assert failed.type == "response.failed" and failed.response.error.code == "context_length_exceeded", failed
    expect(openai.NotFoundError, "msg_x", lambda: ask(model="m", input=[{"type": "item_reference", "id": "msg_x"}]))
    expect(bad, "limit", lambda: client.responses.input_items.list(ask(model="m", input="x").id, limit=1000))


def main():
    server = subprocess.Popen([sys.argv[1], ",".join(KEYS), "qwen3_coder", "qwen3"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        client, stranger = (openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=20) for key in KEYS)
        for check in (whole, stream, stream_helper, parse, cancel, tool_loop, codex, errors):
            check(client)
            print("passed", check.__name__)
        kept(client, stranger)
        print("passed kept")
    finally:
        server.stdin.close()
        assert server.wait(timeout=20) == 0


main()
