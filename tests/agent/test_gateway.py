"""The credential gateway, over real sockets."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from overnight.agent.gateway import CONNECTIONS, Gateway, open_gateway, resets_at
from overnight.agent.grants import Allowance, Grant
from overnight.serving import listen, url_of

TOKEN = "token-of-the-run"
KEY = {"x-api-key": "the-real-key"}

Serve = Callable[[ASGIApp], contextlib.AbstractAsyncContextManager[str]]


class Upstream:
    """What came in; `answers` says, per path, what goes out (200 with an echo otherwise)."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.bodies: list[bytes] = []
        self.answers: dict[str, Callable[[], Response]] = {}
        self.hold = asyncio.Event()
        self.arrived = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.seen.append(request)
        self.bodies.append(await request.body())
        self.arrived.set()
        if scope["path"] == "/v1/models/slow":
            await self.hold.wait()
        answer = self.answers.get(scope["path"], lambda: JSONResponse({"ok": True}))()
        await answer(scope, receive, send)


@dataclass
class Way:
    """A client, through the gateway at `url`, to the upstream."""

    url: str
    client: httpx.AsyncClient
    gateway: Gateway
    grant: Grant
    upstream: Upstream


@contextlib.asynccontextmanager
async def laid(
    serve: Serve, credentials: dict[str, str], prefix: str = "", allowance: Allowance | None = None
) -> AsyncIterator[Way]:
    upstream, listener = Upstream(), listen("127.0.0.1", 0)
    here = url_of(listener)
    async with (
        serve(upstream) as url,
        open_gateway(f"{url}{prefix}", credentials, now=lambda: 1000.0) as gateway,
        gateway.listening(listener),
        httpx.AsyncClient(base_url=here, headers={"x-api-key": TOKEN}, trust_env=False) as client,
    ):
        with gateway.grant(TOKEN, allowance) as grant:
            yield Way(here, client, gateway, grant, upstream)
        upstream.hold.set()


@pytest.fixture
async def way(serve: Serve) -> AsyncIterator[Way]:
    async with laid(serve, KEY) as way:
        yield way


async def test_the_key_takes_the_place_of_the_token(way: Way) -> None:
    headers = {
        "authorization": f"Bearer {TOKEN}",
        "cookie": "a=b",
        "x-forwarded-for": "1.2.3.4",
        "connection": "x-hop",
        "x-hop": "1",
        "anthropic-version": "2023-06-01",
    }
    answer = await way.client.post("/v1/messages?beta=true", content=b"{}", headers=headers)
    (seen,) = way.upstream.seen
    assert answer.json() == {"ok": True}
    assert (seen.url.path, seen.url.query, way.upstream.bodies) == ("/v1/messages", "beta=true", [b"{}"])
    assert seen.headers["x-api-key"] == "the-real-key"
    assert seen.headers["anthropic-version"] == "2023-06-01"
    assert seen.headers["content-length"] == "2"
    assert TOKEN not in str(seen.headers.raw)
    assert not {"authorization", "cookie", "x-forwarded-for", "x-hop"} & set(seen.headers)


async def test_a_bearer_token_is_taken_and_a_bearer_credential_is_sent(serve: Serve) -> None:
    async with laid(serve, {"authorization": "Bearer real"}, prefix="/proxied/") as way:
        del way.client.headers["x-api-key"]
        await way.client.get("/v1/models", headers={"authorization": f"bearer {TOKEN}"})
    (seen,) = way.upstream.seen
    assert seen.headers["authorization"] == "Bearer real"
    assert "x-api-key" not in seen.headers
    assert seen.url.path == "/proxied/v1/models"


@pytest.mark.parametrize("token", ["", "other", TOKEN[:-1], f"{TOKEN}x", "t\xf6ken"])
async def test_another_token_is_refused(way: Way, token: str) -> None:
    answer = await way.client.post("/v1/messages", headers=[(b"x-api-key", token.encode("latin-1"))])
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert way.upstream.seen == []


async def test_the_token_dies_with_the_run(serve: Serve) -> None:
    async with laid(serve, KEY) as way:
        with way.gateway.grant("second"):
            headers = {"x-api-key": "second"}
            assert (await way.client.get("/v1/models", headers=headers)).status_code == 200
        assert (await way.client.get("/v1/models", headers=headers)).status_code == 401
        assert (await way.client.get("/v1/models")).status_code == 200


async def test_a_call_that_waits_dies_with_the_run(serve: Serve) -> None:
    async with laid(serve, KEY) as way:
        with way.gateway.grant("second"):
            waiting = asyncio.create_task(
                way.client.get("/v1/models/slow", headers={"x-api-key": "second"}, timeout=10)
            )
            await way.upstream.arrived.wait()
        assert (await waiting).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/messages"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/files"),
        ("DELETE", "/v1/models/x"),
        ("POST", "/v1/messages/../files"),
        ("GET", "/v1/models/..%2f..%2fadmin"),
        ("GET", "/v1/models/%2e%2e"),
        ("POST", "//v1/messages"),
        ("POST", "/V1/messages"),
        ("CONNECT", "/v1/messages"),
    ],
)
async def test_nothing_else_passes(way: Way, method: str, path: str) -> None:
    url = httpx.URL(way.url).copy_with(raw_path=path.encode())
    answer = await way.client.send(httpx.Request(method, url, headers={"x-api-key": TOKEN}))
    assert answer.status_code == 403
    assert answer.json()["type"] == "error"
    assert way.upstream.seen == []


async def test_greetings_are_answered_here(way: Way) -> None:
    assert (await way.client.head("/")).status_code == 200
    assert (await way.client.get("/api/hello")).status_code == 200
    assert way.upstream.seen == []


async def test_answers_pass_byte_for_byte(way: Way) -> None:
    packed = gzip.compress(b"x" * 1000)
    headers = {"content-encoding": "gzip", "request-id": "r", "retry-after": "7", "connection": "close"}
    way.upstream.answers["/v1/messages"] = lambda: Response(packed, 529, headers)
    async with way.client.stream("POST", "/v1/messages", content=b"{}") as answer:
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert (answer.status_code, raw) == (529, packed)
    assert answer.headers["request-id"] == "r"
    assert answer.headers["content-encoding"] == "gzip"


async def test_a_stream_is_not_held_back(way: Way) -> None:
    more = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        await more.wait()
        yield b"second"

    way.upstream.answers["/v1/messages"] = lambda: StreamingResponse(parts(), media_type="text/event-stream")
    async with way.client.stream("POST", "/v1/messages", content=b"{}") as answer:
        stream = answer.aiter_raw()
        assert await anext(stream) == b"first"
        more.set()
        assert await anext(stream) == b"second"


async def test_redirects_are_not_followed(way: Way) -> None:
    way.upstream.answers["/v1/messages"] = lambda: Response(
        status_code=307, headers={"location": "/elsewhere"}
    )
    assert (await way.client.post("/v1/messages", content=b"{}")).status_code == 307
    assert len(way.upstream.seen) == 1


async def test_without_a_key_it_says_so(serve: Serve) -> None:
    async with laid(serve, {}) as way:
        answer = await way.client.post("/v1/messages", content=b"{}")
    assert answer.status_code == 401
    assert "ANTHROPIC_API_KEY" in answer.json()["error"]["message"]
    assert way.upstream.seen == []


async def test_an_upstream_that_is_not_there_is_an_error_that_is_tried_again() -> None:
    listener = listen("127.0.0.1", 0)
    here = url_of(listener)
    async with (
        open_gateway("http://127.0.0.1:1", KEY, now=lambda: 0.0) as gateway,
        gateway.listening(listener),
        httpx.AsyncClient(base_url=here, trust_env=False) as client,
    ):
        with gateway.grant(TOKEN) as grant:
            answer = await client.post("/v1/messages", content=b"{}", headers={"x-api-key": TOKEN})
            assert (answer.status_code, answer.json()["error"]["type"]) == (502, "api_error")
            assert grant.unreachable


async def test_it_notes_when_a_rate_limit_is_over(way: Way) -> None:
    way.upstream.answers["/v1/messages"] = lambda: Response(status_code=429, headers={"retry-after": "60"})
    await way.client.post("/v1/messages", content=b"{}")
    assert way.grant.resets_at == 1060.0


@pytest.mark.parametrize(
    ("headers", "at"),
    [
        ({"retry-after": "60"}, 1060.0),
        ({"anthropic-ratelimit-unified-reset": "1800000000", "retry-after": "60"}, 1_800_000_000.0),
        ({"anthropic-ratelimit-unified-reset": "soon", "retry-after": "60"}, 1060.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "Tue, 24 Nov 2026 00:00:00 GMT"}, None),
        ({}, None),
    ],
)
def test_reset_times(headers: dict[str, str], at: float | None) -> None:
    assert resets_at(headers, 1000.0) == at


async def test_a_listener_of_one_run_knows_no_other_token(way: Way) -> None:
    listener = listen("127.0.0.1", 0)
    here = url_of(listener)
    with way.gateway.grant("second") as second:
        async with way.gateway.listening(listener, only=second):
            mine = await way.client.get(f"{here}/v1/models", headers={"x-api-key": "second"})
            foreign = await way.client.get(f"{here}/v1/models")
    assert (mine.status_code, foreign.status_code) == (200, 401)


async def test_a_revoked_token_is_dead_though_the_grant_lasts(way: Way) -> None:
    way.grant.revoke()
    assert (await way.client.get("/v1/models")).status_code == 401


async def begun_call(way: Way) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A call for a message, all but the last byte of its body; it would send that when it is asked to go on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(way.url.rpartition(":")[2]))
    head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\ncontent-length: 2\r\n"
    writer.write(f"{head}expect: 100-continue\r\n\r\n{{".encode())
    return reader, writer


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(10):
        return int((await reader.readuntil(b"\r\n")).split()[1])


async def slow_call(way: Way) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await begun_call(way)
    assert await status_of(reader) == 100, "the body is being read"
    await reader.readuntil(b"\r\n")
    return reader, writer


async def test_a_call_whose_body_is_late_does_not_outlive_its_token(way: Way) -> None:
    reader, writer = await slow_call(way)
    way.grant.revoke()
    writer.write(b"}")
    assert await status_of(reader) == 401
    writer.close()
    assert way.upstream.seen == []


async def test_of_more_calls_than_may_pass_no_body_is_read(serve: Serve) -> None:
    """Bodies of 32 MiB each would fill the worker's memory."""
    async with laid(serve, KEY, allowance=Allowance(concurrency=2)) as way:
        held = [await slow_call(way) for _ in range(2)]
        refused = [await begun_call(way) for _ in range(8)]
        assert [await status_of(reader) for reader, _ in refused] == [429] * 8
        for reader, writer in held:
            writer.write(b"}")
            assert await status_of(reader) == 200
        assert (await way.client.get("/v1/models")).status_code == 200, "their places are free again"
        for _, writer in (*held, *refused):
            writer.close()
    assert way.upstream.bodies == [b"{}", b"{}", b""]


async def test_a_run_has_so_many_connections(way: Way) -> None:
    """Also such as ask for nothing: each takes a descriptor of the worker."""
    port = int(way.url.rpartition(":")[2])
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    late, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await late.read() == b""
    reader, first = held[0]
    first.write(f"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\n\r\n".encode())
    assert await status_of(reader) == 200
    for _, open_one in (*held, (late, writer)):
        open_one.close()


async def test_a_stream_ends_when_its_token_is_revoked(way: Way) -> None:
    left = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            left.set()

    way.upstream.answers["/v1/messages"] = lambda: StreamingResponse(parts(), media_type="text/event-stream")
    async with way.client.stream("POST", "/v1/messages", content=b"{}", timeout=10) as answer:
        stream = answer.aiter_raw()
        assert await anext(stream) == b"first"
        way.grant.revoke()
        assert [part async for part in stream] == []
    await asyncio.wait_for(left.wait(), 10)


async def test_a_client_that_leaves_ends_the_call(way: Way) -> None:
    left = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            left.set()

    way.upstream.answers["/v1/messages"] = lambda: StreamingResponse(parts(), media_type="text/event-stream")
    async with way.client.stream("POST", "/v1/messages", content=b"{}") as answer:
        await anext(answer.aiter_raw())
    await asyncio.wait_for(left.wait(), 10)


@pytest.mark.parametrize("target", ["http://example.com/v1/models", "HTTP://127.0.0.1/v1/models"])
async def test_it_is_no_proxy(way: Way, target: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(way.url.rpartition(":")[2]))
    writer.write(
        f"GET {target} HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\nconnection: close\r\n\r\n".encode()
    )
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 400")
    assert b'"invalid_request_error"' in body
    assert way.upstream.seen == []


async def test_headers_go_on_as_they_came(way: Way) -> None:
    """Also those that are no ASCII, which an agent can send, and those that come twice."""
    headers = [(b"x-tag", b"caf\xc3\xa9"), (b"anthropic-beta", b"a"), (b"anthropic-beta", b"b")]
    assert (await way.client.get("/v1/models", headers=headers)).status_code == 200
    came = way.upstream.seen[0].headers.raw
    assert [header for header in came if header[0] in (b"x-tag", b"anthropic-beta")] == headers


async def test_the_answer_is_asked_for_uncompressed(way: Way) -> None:
    await way.client.post("/v1/messages", content=b"{}", headers={"accept-encoding": "gzip"})
    assert way.upstream.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("body", [b"", b"[]", b"not json", b'{"model": 7}', b'{"max_tokens": "many"}'])
async def test_what_is_no_request_goes_no_further(way: Way, body: bytes) -> None:
    answer = await way.client.post("/v1/messages", content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert way.upstream.seen == []
