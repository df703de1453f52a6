"""Requests generated from what the server says of itself, docs/openapi.yaml, with a fake engine behind the real HTTP.

    schemathesis_test.py FAKE_SERVER VENV [CASES [SEED]]

CASES (400) is the number of requests, shared out over the operations; SEED (1) makes others. Valid and invalid ones by
turns: none may be answered 5xx (but 504 where it set a deadline), and every status, content type and body has to be
what the file says. Skipped (77) where VENV, or what KTMPI_VENV names, has no schemathesis.
"""
import collections
import subprocess
import sys

from venv_clients import need

schemathesis = need("schemathesis", sys.argv[2])
import hypothesis
import requests
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (content_type_conformance, response_schema_conformance,
                                               status_code_conformance)

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
KEYS = {"Authorization": "Bearer a-key"}
DRAINS = "/admin/drain"  # the end of all others


def serve(program):
    server = subprocess.Popen([program, "a-key", "qwen3_coder", "qwen3"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    return server, server.stdout.readline().strip()


def drive(operation, url, count, seed, statuses):
    """Sends `count` requests to one operation, half of them made to break the schema."""
    session = requests.Session()

    def send(case):
        response = case.call(base_url=url, headers=KEYS, session=session, timeout=20)
        statuses[response.status_code] += 1
        # 504 is the deadline that a request set itself, in its header or body.
        overdue = response.status_code == 504 and "imeout" in f"{case.headers}{case.body}"
        assert response.status_code < 500 or overdue, \
            f"{response.status_code}: {case.as_curl_command()}\n{response.text}"
        case.validate_response(response, checks=CHECKS)

    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        settings = hypothesis.settings(
            max_examples=max(1, count // 2), deadline=None, database=None, derandomize=False,
            suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate])
        try:
            strategy = operation.as_strategy(generation_mode=mode)
            settings(hypothesis.seed(seed)(hypothesis.given(case=strategy)(send)))()
        except hypothesis.errors.Unsatisfiable:
            assert mode == GenerationMode.NEGATIVE, operation.label  # nothing of it can be broken


def main():
    cases = int(sys.argv[3]) if len(sys.argv) > 3 else 400
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    server, url = serve(sys.argv[1])
    statuses = collections.Counter()
    try:
        schema = schemathesis.openapi.from_url(url + "/openapi.json")
        operations = [o.ok() for o in schema.get_all_operations()]
        operations = [o for o in operations if o.path != DRAINS]
        with_body = [o for o in operations if o.body]
        for operation in operations:  # what takes no body has little to vary
            count = 2 if operation not in with_body else max(2, cases // len(with_body))
            before = sum(statuses.values())
            drive(operation, url, count, seed, statuses)
            print(f"  {operation.label}: {sum(statuses.values()) - before}", flush=True)
        assert requests.get(url + "/health", timeout=20).status_code == 200
    finally:
        server.stdin.close()
        ended = server.wait(timeout=20)
    assert ended == 0, f"the server ended with {ended}"
    print(f"{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}")
    assert statuses[200] and statuses[400], "valid and invalid requests were both meant to come"


main()
