"""Twenty turns as coding agents send them: each prefills only what is new.

    agent_test.py --program KTMPI FAMILY [--turns 20] [--world 3]

The requests of Claude Code to /v1/messages (system blocks with a billing line that changes each time, twenty tools,
thinking and tool_use blocks, results, streams, count_tokens beside them), then those of a router that translates them
for /v1/chat/completions. The assistant's turns are scripted, as the tiny models have nothing to say.
"""
import argparse
import json
import os

from ktmpi_server import Server, fixtures, need_program, skip

BLOCK = 64
FAMILIES = {  # the tiny checkpoint, the family's chat template, tool and reasoning parser
    "qwen3.5": ("qwen3_5_moe-bf16", "qwen3.5.jinja", "qwen3_coder", "qwen3"),
    "kimi_k2": ("kimi_k2-int4", "kimi-k2-thinking.jinja", "kimi_k2", "kimi_k2"),
}
TOOLS = [f"Tool{i}" for i in range(20)]
ABOUT = "Works on the files of the project and says what it found, line by line."
SCHEMA = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "additionalProperties": False,
          "required": ["path"],
          "properties": {"path": {"type": "string", "description": "where"}, "limit": {"type": "number"}}}
SYSTEM = "You are an agent that edits code. " + "Keep to the style of the file. " * 20


def billing(turn):
    return f"x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch={turn * 7919:05x};"


def call_of(turn):
    return {"path": f"src/part_{turn}.cpp", "limit": 10 * turn}


def result_of(turn):
    return f"{turn}: int main() {{ return {turn}; }}\n" * 3


# ---- Anthropic's form, as Claude Code sends it

def message_history(turns):
    history = [{"role": "user", "content": [{"type": "text", "text": "Mend the build.",
                                             "cache_control": {"type": "ephemeral"}}]}]
    for turn in range(turns):
        history += [
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": f"I should look at part {turn}.", "signature": ""},
                {"type": "text", "text": f"Looking at part {turn}."},
                {"type": "tool_use", "id": f"toolu_{turn:02}", "name": TOOLS[turn % 20], "input": call_of(turn)}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"toolu_{turn:02}",
                                          "content": [{"type": "text", "text": result_of(turn)}]}]}]
    return history


def message_request(turn):
    return {
        "model": "claude-sonnet-4-5", "max_tokens": 4, "stream": True, "temperature": 1,
        "system": [{"type": "text", "text": billing(turn)},
                   {"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": name, "description": ABOUT, "input_schema": SCHEMA} for name in TOOLS],
        "messages": message_history(turn), "metadata": {"user_id": "someone"},
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "context_management": {"edits": []},
    }


def message_turn(server, turn):
    """Prompt tokens, and those of them that were cached."""
    body = message_request(turn)
    counted = server.post("/v1/messages/count_tokens?beta=true", {k: body[k] for k in ("system", "tools", "messages")})
    status, text = server.post("/v1/messages?beta=true", body)
    assert status == 200, text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    kinds = [e["type"] for e in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"], kinds
    assert events[0]["message"]["usage"]["input_tokens"] == counted[1]["input_tokens"], (events[0], counted)
    usage = events[-2]["usage"]
    return usage["input_tokens"] + usage["cache_read_input_tokens"], usage["cache_read_input_tokens"]


# ---- OpenAI's form, as a router for Claude Code sends it

def chat_history(turns):
    history = [{"role": "user", "content": [{"type": "text", "text": "Mend the build, please."}]}]
    for turn in range(turns):
        history += [
            {"role": "assistant", "content": None, "reasoning_content": f"I should look at part {turn}.",
             "tool_calls": [{"id": f"call_{turn:024x}", "type": "function", "function": {
                 "name": TOOLS[turn % 20], "arguments": json.dumps(call_of(turn))}}]},
            {"role": "tool", "tool_call_id": f"call_{turn:024x}", "content": result_of(turn)}]
    return history


def chat_turn(server, turn):
    status, text = server.post("/v1/chat/completions", {
        "model": "some/model", "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True},
        "messages": [{"role": "system", "content": [
            {"type": "text", "text": billing(turn)},
            {"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]}] + chat_history(turn),
        "tools": [{"type": "function", "function": {"name": name, "description": ABOUT, "parameters": SCHEMA}}
                  for name in TOOLS],
        "tool_choice": "auto", "reasoning": {"effort": "high", "enabled": True}, "temperature": 1})
    assert status == 200, text
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]", lines[-1]
    chunks = [json.loads(line) for line in lines[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}, chunks[0]
    usage = chunks[-1]["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def conversation(server, name, turn, turns):
    """What is shared with the turn before is in whole blocks; where the answer began, the template may differ."""
    before, computed, new = 0, [], []
    for number in range(turns):
        prompt, cached = turn(server, number)
        computed.append(prompt - cached)
        new.append(prompt - before)
        if number:
            assert new[-1] > 0 and computed[-1] <= new[-1] + 2 * BLOCK, \
                f"{name}, turn {number}: {computed[-1]} of {prompt} tokens computed, {new[-1]} are new"
        before = prompt
    print(f"  {name}: prompts grow to {before} tokens; computed in the first turn {computed[0]}, "
          f"later {min(computed[1:])} to {max(computed[1:])} of {min(new[1:])} to {max(new[1:])} new ones", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--program", required=True)
    parser.add_argument("--world", type=int, default=3)
    parser.add_argument("--turns", type=int, default=20)
    a = parser.parse_args()
    program = need_program(a.program)
    checkpoint, template, tools, reasoning = FAMILIES[a.family]
    folder = fixtures()
    template = os.path.join(os.path.dirname(folder), "templates", "templates", template)
    if not os.path.exists(template):
        skip(f"{template} is not there")
    options = ["--chat-template", template, "--tool-call-parser", tools, "--reasoning-parser", reasoning,
               "--chunked-prefill-size", 1024]
    with Server(program, os.path.join(folder, checkpoint), a.world, options) as server:
        conversation(server, "Claude Code", message_turn, a.turns)
        conversation(server, "router", chat_turn, a.turns)


if __name__ == "__main__":
    main()
