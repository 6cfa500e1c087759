"""What callers send: refused whenever it does not fit, never repeated, and never a 500."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

JSON = {"Content-Type": "application/json"}
CANARY = "canary-7f3a"


async def nothing_was_kept(service: Any) -> bool:
    jobs = (await service.parts.index.jobs()).rows
    sessions = (await service.parts.index.sessions()).rows
    bells = await service.parts.queue.receive(limit=1, visibility_seconds=1, wait_seconds=0)
    return not (jobs or sessions or bells)


NOT_JSON = [
    b"",
    b"{",
    b'{"prompt":"a"} {}',
    b"\xef\xbb\xbf" + b'{"prompt":"a"}',
    b'{"prompt":"\xff"}',
    b'{"prompt":"\\ud800"}',
    b'{"prompt":"a","prompt":"b"}',
    b'{"prompt":"a","output_schema":{"x":{"y":1,"y":2}}}',
    b'{"prompt":"a","max_budget_usd":NaN}',
    b'{"prompt":"a","output_schema":{"x":Infinity}}',
    b'{"prompt":"a\x01"}',
    b'{"prompt":"a","output_schema":' + b'{"a":' * 9000 + b"1" + b"}" * 9001,
    b'{"prompt":"a","output_schema":{"a":' + b"[" * 9000 + b"]" * 9000 + b"}}",
]


@pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
async def test_what_is_not_strict_json_is_refused(service: Any, client: Any, body: bytes) -> None:
    answer = await client.post("/execute", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")
    assert await nothing_was_kept(service)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ([], ""),
        ("text", ""),
        ({}, ""),
        ({"prompt": None}, "/prompt"),
        ({"prompt": ""}, "/prompt"),
        ({"prompt": " \n"}, "/prompt"),
        ({"prompt": 7}, "/prompt"),
        ({"prompt": "p", CANARY: 1}, ""),
        ({"prompt": "p", "model": "-rf"}, "/model"),
        ({"prompt": "p", "model": "a\n"}, "/model"),
        ({"prompt": "p", "model": "a b"}, "/model"),
        ({"prompt": "p", "model": "m" * 129}, "/model"),
        ({"prompt": "p", "max_turns": 0}, "/max_turns"),
        ({"prompt": "p", "max_turns": 1001}, "/max_turns"),
        ({"prompt": "p", "max_turns": True}, "/max_turns"),
        ({"prompt": "p", "max_budget_usd": 0}, "/max_budget_usd"),
        ({"prompt": "p", "timeout_seconds": 0.5}, "/timeout_seconds"),
        ({"prompt": "p", "timeout_seconds": 1501}, "/timeout_seconds"),
        ({"prompt": "p", "allowed_tools": ["Read", "a,b"]}, "/allowed_tools/1"),
        ({"prompt": "p", "allowed_tools": ["-x"]}, "/allowed_tools/0"),
        ({"prompt": "p", "disallowed_tools": ["a\n"]}, "/disallowed_tools/0"),
        ({"prompt": "p", "disallowed_tools": [""]}, "/disallowed_tools/0"),
        ({"prompt": "p", "output_schema": []}, "/output_schema"),
        ({"prompt": "p", "output_schema": {"a": "x" * 60_000 + "é" * 3000}}, "/output_schema"),
        ({"prompt": "p", "output_schema": json.loads('{"a":' * 65 + "1" + "}" * 65)}, "/output_schema"),
        ({"prompt": "p", "metadata": {"k": "v" * 513}}, "/metadata"),
        ({"prompt": "p", "metadata": {"k" * 65: "v"}}, "/metadata"),
        ({"prompt": "p", "metadata": {"": "v"}}, "/metadata"),
        ({"prompt": "p", "metadata": {"k": 1}}, "/metadata"),
        ({"prompt": "p", "metadata": {str(n): "" for n in range(17)}}, "/metadata"),
    ],
)
async def test_what_does_not_fit_is_pointed_at(service: Any, client: Any, body: Any, pointer: str) -> None:
    answer = await client.post("/execute", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert CANARY not in answer.text
    assert await nothing_was_kept(service)


@pytest.mark.parametrize("session_id", ["", "x", "\u0000", "{uuid}", "ABCDEF00-0000-4000-8000-000000000000"])
async def test_a_session_id_is_a_lower_case_uuid(client: Any, session_id: str) -> None:
    answer = await client.post("/execute", json={"prompt": "p", "session_id": session_id})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_id")


@pytest.mark.parametrize(
    "callback_url",
    [
        "http://example.com",
        "https://127.0.0.1/",
        "https://user:canary@example.com",
        "file:///etc/passwd",
        "",
        "x" * 5000,
    ],
)
async def test_a_callback_url_that_is_not_public_is_refused(
    service: Any, client: Any, callback_url: str
) -> None:
    answer = await client.post("/execute", json={"prompt": "p", "callback_url": callback_url})
    assert (answer.status_code, answer.json()["code"]) == (422, "callback_url_refused")
    assert "canary" not in answer.text
    assert await nothing_was_kept(service)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        JSON | {"Content-Encoding": "gzip"},
    ],
)
async def test_only_plain_json_is_taken(service: Any, client: Any, headers: dict[str, str]) -> None:
    answer = await client.post("/execute", content=b'{"prompt":"p"}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert await nothing_was_kept(service)


async def test_utf_8_may_be_said(client: Any) -> None:
    headers = {"Content-Type": "Application/JSON; charset=UTF-8"}
    assert (await client.post("/execute", content=b'{"prompt":"p"}', headers=headers)).status_code == 202


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_refused_while_it_streams(
    service: Any, url: str, declared: bool
) -> None:
    body = json.dumps({"prompt": "x" * (1024 * 1024)}).encode()

    async def pieces() -> Any:
        for start in range(0, len(body), 4096):
            yield body[start : start + 4096]

    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/execute", content=body if declared else pieces(), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert await nothing_was_kept(service)


async def test_a_client_that_goes_in_the_middle_of_its_body_leaves_nothing(
    service: Any, url: str, listener: Any
) -> None:
    _, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"POST /execute HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
    writer.write(b'Content-Length: 100\r\n\r\n{"prompt":')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with httpx.AsyncClient(base_url=url) as client:  # the service goes on
        assert (await client.get("/healthz")).status_code == 200
    assert await nothing_was_kept(service)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(CANARY) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just(CANARY), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from(
    [
        "prompt",
        "session_id",
        "callback_url",
        "model",
        "max_turns",
        "allowed_tools",
        "output_schema",
        "metadata",
    ]
)
bodies = st.one_of(
    st.binary(max_size=40).map(lambda raw: raw + CANARY.encode()),
    st.dictionaries(names | st.just(CANARY), values, min_size=1).map(
        lambda body: json.dumps({**body, CANARY: 1}).encode()
    ),
    st.dictionaries(names, values).map(lambda body: json.dumps({**body, "model": f"{CANARY} "}).encode()),
    st.dictionaries(names, values).map(lambda body: json.dumps({**body, "session_id": CANARY}).encode()),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies)
async def test_no_body_is_repeated_or_makes_the_service_fail(service: Any, body: bytes) -> None:
    async with service.client() as client:
        answer = await client.post("/execute", content=body, headers=JSON)
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert CANARY not in answer.text
    assert CANARY not in str(answer.headers)
    assert await nothing_was_kept(service)
