"""What grammars of JSON schemas admit, against a validator: pairs of keywords in every form that encloses schemas.

    schemas_test.py SCHEMA_ANSWERS VENV [SEED [ROUNDS]]

Of each pair of keywords, in some of the forms, answers at random that the grammar admits are held to the schema, and
values that the schema admits are held to the grammar. A schema may be refused instead, with the keyword and its place.
"""
import itertools
import json
import random
import subprocess
import sys

from venv_clients import need

jsonschema_rs = need("jsonschema_rs", sys.argv[2] if len(sys.argv) > 2 else "build/venv")

SCALARS = [None, True, False, 0, 1, 2, 3, 5, -4, 10, 2.5, -0.75, 1000, "", "a", "b", "ab", "ba", "abc", "x1", "é", "日本",
           'say "a"', "two\nlines", "2024-02-29", "a@b.org", "longer than ten"]
TRIED = SCALARS + [[], ["a"], [1, 2], [1, "a", None], {}, {"a": 1}, {"a": "ab", "b": 2}, {"b": 1}, {"a": {"a": 1}}, {"x": 3}]
NAMES = ["a", "b", "x", "title", "a/b", "é"]
PATTERNS = ["^a", "b$", "^[a-c]+$", "a|b", "^x[0-9]{1,3}$", "^(ab|ba)*$", "^\\S+$", "^[^\"]*$", "é", "^.{2,5}$", "^\"a\"$",
            "\\d", "^[\\w-]+\\.$", "^a\\/b$"]
FORMATS = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "uri-reference",
           "json-pointer", "relative-json-pointer", "int32", "password"]
NEVER_HELD = {"not", "if", "contains", "dependentRequired"}


class Maker:
    """Random values of the keywords."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def small(self, depth=0):
        r = self.random
        return r.choice([lambda: {"type": r.choice(["string", "integer", "boolean", "null", "number"])},
                         lambda: {"enum": r.sample(SCALARS, 2)},
                         lambda: {"type": "integer", "minimum": r.randint(-3, 3), "maximum": r.randint(4, 12)},
                         lambda: {"type": "string", "maxLength": r.randint(1, 4)},
                         lambda: {"const": r.choice(SCALARS)},
                         lambda: {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                         lambda: {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
                         lambda: {"required": [r.choice(NAMES)]},
                         lambda: {"minLength": 1}, lambda: {}, lambda: True])()

    def keyword(self, name):
        r = self.random
        schemas = lambda n: [self.small() for _ in range(n)]
        types = ["string", "integer", "number", "boolean", "null", "array", "object"]
        return {
            "type": lambda: r.choice([r.choice(types), r.sample(types, 2)]),
            "enum": lambda: r.sample(TRIED, 4),
            "const": lambda: r.choice(TRIED),
            "minimum": lambda: r.choice([0, 1, -4, 2.5, -0.75, 3]),
            "maximum": lambda: r.choice([0, 5, 10, 2.5, 1000, 0.125]),
            "exclusiveMinimum": lambda: r.choice([0, 1, -4.5, 9]),
            "exclusiveMaximum": lambda: r.choice([3, 5.5, 12, 0]),
            "multipleOf": lambda: r.choice([1, 2, 5, 7, 0.5, 0.01]),
            "minLength": lambda: r.randint(0, 4),
            "maxLength": lambda: r.choice([0, 1, 3, 8, 90]),
            "pattern": lambda: r.choice(PATTERNS),
            "format": lambda: r.choice(FORMATS),
            "items": lambda: r.choice([self.small(), False]),
            "prefixItems": lambda: schemas(r.randint(1, 3)),
            "minItems": lambda: r.randint(0, 4),
            "maxItems": lambda: r.randint(0, 4),
            "uniqueItems": lambda: r.choice([True, False]),
            "contains": lambda: self.small(),
            "properties": lambda: {n: self.small() for n in r.sample(NAMES, r.randint(1, 3))},
            "required": lambda: r.sample(NAMES, r.randint(0, 2)),
            "additionalProperties": lambda: r.choice([True, False, self.small()]),
            "patternProperties": lambda: {p: self.small() for p in r.sample(["^a", "^x", "b$", "^[ab]+$"], r.randint(1, 2))},
            "propertyNames": lambda: r.choice([{"enum": r.sample(NAMES, 3)}, {"pattern": r.choice(PATTERNS)},
                                               {"maxLength": r.randint(1, 5)}, {"minLength": 2}, {"const": "a"}]),
            "minProperties": lambda: r.randint(0, 3),
            "maxProperties": lambda: r.randint(0, 3),
            "dependentRequired": lambda: {"a": ["b"]},
            "unevaluatedProperties": lambda: r.choice([False, self.small()]),
            "unevaluatedItems": lambda: r.choice([False, self.small()]),
            "anyOf": lambda: schemas(r.randint(1, 3)),
            "oneOf": lambda: r.choice([schemas(2), [{"type": "string"}, {"type": "integer"}],
                                       [{"properties": {"a": {"const": 1}}, "required": ["a"]},
                                        {"properties": {"a": {"const": 2}}, "required": ["a"]}],
                                       [{"type": "object", "properties": {n: self.small()}, "required": [n]} for n in "ab"]]),
            "allOf": lambda: schemas(r.randint(1, 2)),
            "$ref": lambda: r.choice(["#/$defs/one", "#/$defs/a~1b", "#/$defs/m~0n", "#/$defs/%3Ct%3E"]),
            "not": lambda: self.small(),
            "if": lambda: self.small(),
            "title": lambda: "a title",
        }[name]()


KEYWORDS = ["type", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength",
            "maxLength", "pattern", "format", "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains",
            "properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties",
            "maxProperties", "dependentRequired", "unevaluatedProperties", "unevaluatedItems", "anyOf", "oneOf", "allOf",
            "$ref", "not", "if", "title"]

# Schemas around a schema, and a value of them around a value of it.
FORMS = {
    "itself": (lambda s: s, lambda v: v),
    "property": (lambda s: {"type": "object", "properties": {"p": s}, "required": ["p"]}, lambda v: {"p": v}),
    "items": (lambda s: {"type": "array", "items": s, "minItems": 1, "maxItems": 2}, lambda v: [v]),
    "prefixItems": (lambda s: {"type": "array", "prefixItems": [s], "minItems": 1}, lambda v: [v]),
    "anyOf": (lambda s: {"anyOf": [s, {"const": "other"}]}, lambda v: v),
    "oneOf": (lambda s: {"oneOf": [{"type": "object", "properties": {"k": {"const": 1}, "p": s}, "required": ["k", "p"]},
                                   {"type": "string"}]}, lambda v: {"k": 1, "p": v}),
    "allOf": (lambda s: {"allOf": [s, {"title": "nothing"}]}, lambda v: v),
    "$ref": (lambda s: {"$ref": "#/$defs/the~1schema", "$defs": {"the/schema": s}}, lambda v: v),
    "a property by $ref": (lambda s: {"properties": {"p": {"$ref": "#/definitions/s"}}, "required": ["p"], "type": "object",
                                      "definitions": {"s": s}}, lambda v: {"p": v}),
    "additionalProperties": (lambda s: {"type": "object", "additionalProperties": s, "minProperties": 1, "maxProperties": 2},
                             lambda v: {"any": v}),
    "patternProperties": (lambda s: {"type": "object", "patternProperties": {"^p": s}, "minProperties": 1}, lambda v: {"p": v}),
}
TOOLS = ["hermes", "qwen3_coder", "deepseekv32", "kimi_k2"]
DEFINITIONS = {"one": {"type": "integer", "minimum": 0, "maximum": 99}, "a/b": {"minLength": 2},
               "m~n": {"type": ["string", "null"]}, "<t>": {"properties": {"a": {"$ref": "#/$defs/one"}}}}


def cases(seed, rounds):
    maker = Maker(seed)
    pairs = list(itertools.combinations(KEYWORDS, 2))
    for round in range(rounds):
        for number, pair in enumerate(pairs):
            schema = {k: maker.keyword(k) for k in pair}
            if maker.random.random() < 0.5 and "type" not in pair:  # most are of a type
                kind = {"m": "number", "e": "number"}.get(pair[0][0], "string")
                schema["type"] = maker.random.choice(["string", "number", "array", "object", kind])
            tool = maker.random.random() < 0.3
            form = "property" if tool else maker.random.choice(list(FORMS))
            around, value = FORMS[form]
            whole = around(schema)
            if "$ref" in pair:
                whole = {**whole, "$defs": {**whole.get("$defs", {}), **DEFINITIONS}}
            case = {"schema": whole, "seed": seed * 100003 + round * 1009 + number, "answers": 6,
                    "pair": pair, "at": form, "value": value, "inner": schema}
            if tool:
                case["form"] = maker.random.choice(TOOLS)
            yield case


def names_members(schema):
    """Then answers have those members and items only, in that order; JSON Schema would have let others in."""
    text = json.dumps(schema)
    return any(word in text for word in ('"properties"', '"required"', '"prefixItems"', '"patternProperties"', '"$ref"',
                                         '"propertyNames"'))


def main():
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 4
    program = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wrong, counts = [], {"cases": 0, "held": 0, "refused": 0, "answers": 0, "unfinished": 0, "tried": 0}
    held_keywords = set()

    def fail(case, what):
        wrong.append(f"{what}\n    {case['at']} {case.get('form', '')} {json.dumps(case['schema'])}")

    for case in cases(seed, rounds):
        validator = jsonschema_rs.Draft202012Validator(case["schema"], validate_formats=True)
        closed = names_members(case["inner"])
        tries = [case["value"](v) for v in TRIED if not (closed and isinstance(v, (dict, list)))]
        tries = [v for v in tries if validator.is_valid(v)]
        texts = [] if "form" in case else [json.dumps(v, ensure_ascii=False, separators=(",", ":")) for v in tries]
        line = {"schema": case["schema"], "seed": case["seed"], "answers": case["answers"], "try": texts}
        if "form" in case:
            line["form"] = case["form"]
        program.stdin.write(json.dumps(line) + "\n")
        program.stdin.flush()
        said = json.loads(program.stdout.readline())
        counts["cases"] += 1
        if "error" in said:
            fail(case, f"error: {said['error']}")
        elif "refused" in said:
            counts["refused"] += 1
            if "late" in said:
                fail(case, f"refused late: {said['refused']}")
            elif "no value is admitted" in said["refused"]:
                if tries:
                    fail(case, f"refused, but admits {tries[0]!r}: {said['refused']}")
            elif "form" not in case and ('"' not in said["refused"] or "#" not in said["refused"]):
                fail(case, f"refused without keyword and place: {said['refused']}")
        else:
            counts["held"] += 1
            counts["unfinished"] += said["unfinished"]
            held_keywords.update(case["pair"])
            for text in said["answers"]:
                counts["answers"] += 1
                try:
                    if not validator.is_valid(json.loads(text)) and "Infinity" not in json.dumps(json.loads(text)):
                        fail(case, f"admits {text}")
                except ValueError as e:
                    fail(case, f"no JSON: {text!r}: {e}")
            for text, admitted in zip(texts, said["admitted"]):
                counts["tried"] += 1
                if not admitted:
                    fail(case, f"does not admit {text}")
    program.stdin.close()
    print(counts)
    never = set(KEYWORDS) - NEVER_HELD - held_keywords
    if never:
        wrong.append(f"never held: {never}")
    if counts["held"] < 0.5 * counts["cases"] or counts["answers"] < 4 * counts["held"]:
        wrong.append("too little was held to say anything")
    for text in wrong[:40]:
        print(text)
    print(f"{len(wrong)} wrong")
    sys.exit(bool(wrong))


main()
