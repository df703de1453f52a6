#pragma once

namespace kt {

// The environment of transformers' chat templates, and the two ways to fill one in. Texts are parsed here, so that
// numbers are what Python makes of them.
constexpr const char* kHelpers = R"python(
import json
from datetime import datetime

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """{% generation %} marks what training learns from; here it prints its body."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise TemplateError(message)


def strftime_now(format):
    return datetime.now().strftime(format)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = strftime_now


def compile_template(text):
    return environment.from_string(text)


def loads(text, absent):
    return json.loads(text) if text.strip() not in ("", "null") else absent


def with_sorted_keys(value):
    if isinstance(value, dict):
        return {key: with_sorted_keys(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [with_sorted_keys(element) for element in value]
    return value


def render(template, variables, messages, tools, kwargs, sort_tools):
    tools = loads(tools, None)
    context = {"documents": None, "add_generation_prompt": False, **json.loads(variables), **loads(kwargs, {})}
    context["messages"] = loads(messages, [])
    context["tools"] = with_sorted_keys(tools) if sort_tools else tools
    return template.render(context).encode()


# Small conversations tell what a template takes. A text that was left out or printed as a list is not taken.

def takes(template, variables, *turns):
    messages = [{"role": role, "content": content} for role, content in turns]
    texts = [part["text"] for _, content in turns if isinstance(content, list) for part in content]
    texts += [content for _, content in turns if isinstance(content, str)]
    try:
        context = {"documents": None, "tools": None, "add_generation_prompt": False, **json.loads(variables)}
        prompt = template.render({**context, "messages": messages})
    except Exception:
        return False
    return all(text in prompt for text in texts) and "'type'" not in prompt


def traits(template, variables):
    """Where a system message may stand (0: anywhere, 1: first, 2: nowhere), must a user speak, may content be parts?"""
    system, user, answer = ("system", "probe s"), ("user", "probe u"), ("assistant", "probe a")
    if not takes(template, variables, user):
        return 0, False, False
    anywhere = takes(template, variables, system, ("system", "probe t"), user, answer, ("system", "probe v"), user)
    first = anywhere or takes(template, variables, system, user)
    needs_user = not takes(template, variables, answer) and takes(template, variables, user, answer)
    parts = takes(template, variables, ("user", [{"type": "text", "text": text} for text in ("probe p", "probe q")]))
    return 0 if anywhere else 1 if first else 2, needs_user, parts


def render_once(text, context):
    defaults = {"messages": [], "tools": None, "documents": None, "add_generation_prompt": False}
    return compile_template(text).render({**defaults, **loads(context, {})}).encode()
)python";

}  // namespace kt
