"""One table of requests, answered by the edge in workerd and by `overnight serve`: the answers are the same."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

JSON = {"Content-Type": "application/json"}
UNKNOWN = "00000000-0000-7000-8000-000000000000"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@dataclass(frozen=True, kw_only=True)
class Case:
    """`path` may name `{job}` and `{session}`, those of a job that was sent before."""

    name: str
    status: int
    code: str | None = None
    method: str = "POST"
    path: str = "/execute"
    body: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def get(name: str, path: str, status: int, code: str | None = None) -> Case:
    return Case(name=name, method="GET", path=path, status=status, code=code)


def refused(name: str, body: Any) -> Case:
    return Case(name=name, body=body, status=422, code="invalid_request")


def not_json(name: str, content: bytes) -> Case:
    return Case(name=name, content=content, status=400, code="invalid_json")


EVERYTHING = {
    "prompt": "write a program ☀",
    "callback_url": "https://EXAMPLE.com",
    "model": "claude-sonnet-4-5[1m]",
    "max_turns": 5,
    "max_budget_usd": 0.5,
    "timeout_seconds": 60,
    "append_system_prompt": "be brief",
    "allowed_tools": ["Bash(git *)", "Read"],
    "disallowed_tools": ["WebFetch"],
    "output_schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
    "metadata": {"ticket": "7"},
}
CASES = (
    Case(name="a prompt", body={"prompt": "p"}, status=202),
    Case(name="every option", body=EVERYTHING, status=202),
    Case(name="nulls", body={"prompt": "p", "model": None, "session_id": None}, status=202),
    Case(name="a large prompt", body={"prompt": "é" * 450_000}, status=202),
    Case(name="a session goes on", body={"prompt": "p", "session_id": "{session}"}, status=202),
    Case(
        name="an unknown session",
        body={"prompt": "p", "session_id": UNKNOWN},
        status=404,
        code="session_not_found",
    ),
    Case(name="no id", body={"prompt": "p", "session_id": "A"}, status=422, code="invalid_id"),
    Case(
        name="an id in capitals",
        body={"prompt": "p", "session_id": UNKNOWN.upper().replace("0", "A")},
        status=422,
        code="invalid_id",
    ),
    not_json("nothing", b""),
    not_json("half an object", b"{"),
    not_json("two objects", b'{"prompt":"a"} {}'),
    not_json("a byte order mark", b"\xef\xbb\xbf" + b'{"prompt":"a"}'),
    not_json("no UTF-8", b'{"prompt":"\xff"}'),
    not_json("half a surrogate pair", b'{"prompt":"\\ud800"}'),
    not_json("a name twice", b'{"prompt":"a","prompt":"b"}'),
    not_json("no number", b'{"prompt":"a","max_budget_usd":NaN}'),
    not_json(
        "nested in an array", b'{"prompt":"a","output_schema":{"a":' + b"[" * 9000 + b"]" * 9000 + b"}}"
    ),
    Case(name="brackets in a string", body={"prompt": "[{" * 5000}, status=202),
    Case(
        name="nested more than a schema may be",
        content=b'{"prompt":"a","output_schema":' + b'{"a":' * 200 + b"1" + b"}" * 201,
        status=422,
        code="invalid_request",
    ),
    not_json("nested deeply", b'{"prompt":"a","output_schema":' + b'{"a":' * 9000 + b"1" + b"}" * 9001),
    refused("a list", []),
    refused("no prompt", {}),
    refused("an empty prompt", {"prompt": " \n"}),
    refused("a number for a prompt", {"prompt": 7}),
    refused("an unknown field", {"prompt": "p", "canary-7f3a": 1}),
    refused("a model like an option", {"prompt": "p", "model": "-rf"}),
    refused("a model with a newline", {"prompt": "p", "model": "a\n"}),
    refused("no turns", {"prompt": "p", "max_turns": 0}),
    refused("too much time", {"prompt": "p", "timeout_seconds": 1501}),
    refused("a comma in a tool rule", {"prompt": "p", "allowed_tools": ["Read", "a,b"]}),
    refused("a schema that is too large", {"prompt": "p", "output_schema": {"a": "x" * 66_000}}),
    refused("metadata that is too long", {"prompt": "p", "metadata": {"k": "v" * 513}}),
    Case(
        name="a private callback",
        body={"prompt": "p", "callback_url": "https://10.0.0.1/"},
        status=422,
        code="callback_url_refused",
    ),
    Case(
        name="a callback by another protocol",
        body={"prompt": "p", "callback_url": "ftp://example.com/"},
        status=422,
        code="callback_url_refused",
    ),
    Case(
        name="another media type",
        content=b"{}",
        headers={"Content-Type": "text/plain"},
        status=415,
        code="unsupported_media_type",
    ),
    Case(
        name="compressed",
        content=b"{}",
        headers={"Content-Encoding": "gzip"},
        status=415,
        code="unsupported_media_type",
    ),
    Case(
        name="a body that is too large",
        content=b'{"prompt":"' + b"a" * 1024 * 1024 + b'"}',
        status=413,
        code="body_too_large",
    ),
    Case(
        name="an idempotency key with a space",
        body={"prompt": "p"},
        headers={"Idempotency-Key": "a b"},
        status=422,
        code="invalid_idempotency_key",
    ),
    Case(
        name="no key", body={"prompt": "p"}, headers={"Authorization": ""}, status=401, code="unauthenticated"
    ),
    Case(
        name="a wrong key",
        body={"prompt": "p"},
        headers={"Authorization": "Bearer ovn_" + "0" * 57},
        status=401,
        code="unauthenticated",
    ),
    Case(
        name="two keys",
        body={"prompt": "p"},
        headers={"X-API-Key": "ovn_" + "0" * 57},
        status=401,
        code="unauthenticated",
    ),
    get("the status", "/status/{job}", 200),
    get("the job", "/jobs/{job}", 200),
    get("an unknown job", f"/status/{UNKNOWN}", 404, "job_not_found"),
    get("no id of a job", "/status/x", 404, "job_not_found"),
    get("a path that climbs", "/status/..%2f..%2fhealthz", 404, "not_found"),
    get("events", "/jobs/{job}/events", 200),
    get("later events", "/jobs/{job}/events?after=1", 200),
    get("events of nothing", f"/jobs/{UNKNOWN}/events", 404, "job_not_found"),
    get("events after a word", "/jobs/{job}/events?after=x", 422, "invalid_request"),
    get("an unknown parameter", "/jobs/{job}/events?before=1", 422, "invalid_request"),
    get("deliveries", "/jobs/{job}/deliveries", 200),
    get("the session", "/sessions/{session}", 200),
    get("an unknown session by its path", f"/sessions/{UNKNOWN}", 404, "session_not_found"),
    get("health", "/healthz", 200),
    get("nothing there", "/nothing", 404, "not_found"),
    Case(name="a wrong method", method="DELETE", path="/execute", status=405, code="method_not_allowed"),
    Case(name="cancel", path="/jobs/{job}/cancel", status=200),
    Case(name="cancel nothing", path=f"/jobs/{UNKNOWN}/cancel", status=404, code="job_not_found"),
    Case(name="retry an open job", path="/jobs/{job}/retry", status=202),
    Case(
        name="redeliver nothing",
        path=f"/deliveries/msg_{'0' * 32}/redeliver",
        status=404,
        code="delivery_not_found",
    ),
)
ALIKE = ("content-type", "cache-control", "retry-after", "www-authenticate", "allow", "idempotent-replayed")
"""Headers that must be the same; `location` is compared without its id."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_edge_answers_as_the_embedded_service_does(
    case: Case, edge: httpx.AsyncClient, embedded: httpx.AsyncClient
) -> None:
    there, here = await asked(edge, case), await asked(embedded, case)
    assert (there.status_code, code_of(there)) == (case.status, case.code)
    assert alike(there) == alike(here)


async def test_a_key_gives_the_first_answer_again(
    edge: httpx.AsyncClient, embedded: httpx.AsyncClient, entropy: Any
) -> None:
    key = {"Idempotency-Key": entropy.token()}
    for client in (edge, embedded):
        first = await client.post("/execute", json={"prompt": "p"}, headers=key)
        again = await client.post("/execute", json={"prompt": "p", "model": None}, headers=key)
        other = await client.post("/execute", json={"prompt": "q"}, headers=key)
        assert (first.status_code, again.status_code) == (202, 202)
        assert again.content == first.content
        assert again.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        assert (other.status_code, code_of(other)) == (422, "idempotency_key_reused")


async def asked(client: httpx.AsyncClient, case: Case) -> httpx.Response:
    names: Mapping[str, str] = {}
    if "{" in case.path or "{session}" in str(case.body):
        sent = (await client.post("/execute", json={"prompt": "before"})).json()
        names = {"job": sent["job_id"], "session": sent["session_id"]}
    content = case.content
    if case.body is not None:
        content = json.dumps(case.body, ensure_ascii=False).encode()
        content = content.replace(b"{session}", names.get("session", "").encode())
    return await client.request(
        case.method, case.path.format(**names), content=content, headers={**JSON, **case.headers}
    )


def code_of(answer: httpx.Response) -> str | None:
    return answer.json().get("code") if answer.headers["content-type"].startswith("application/p") else None


def alike(answer: httpx.Response) -> tuple[int, Mapping[str, str], str, Any]:
    """All of an answer that does not differ from one job to the next."""
    told = TIME.sub("(time)", UUID.sub("(id)", answer.text))
    told = re.sub(r'"request_id":"[^"]*"', '"request_id":""', told)
    headers = {name: answer.headers[name] for name in ALIKE if name in answer.headers}
    return answer.status_code, headers, UUID.sub("(id)", answer.headers.get("location", "")), json.loads(told)
