"""The credential gateway: the only holder of the real key, and the only way from a run to the API.

A run knows a token that opens nothing else and dies with it. What may pass is a short list; the upstream is
fixed; the key is added here and stands in no process that an agent can look into.
"""

import asyncio
import contextlib
import hashlib
import hmac
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from overnight.serving import listen, serving, url_of

CONNECT_SECONDS = 10.0

_FORWARDED = {
    "POST": re.compile(r"/v1/messages(/count_tokens)?"),
    "GET": re.compile(r"/v1/models(/[A-Za-z0-9][A-Za-z0-9._:-]*)?"),
}
_GREETINGS = frozenset({"/", "/api/hello"})
"""Claude Code asks for these to see whether the network is there; the answer is ours."""

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_UPSTREAM = _HOP_BY_HOP | {"authorization", "x-api-key", "cookie", "host", "forwarded", "x-forwarded-for"}

_RESETS = ("anthropic-ratelimit-unified-reset", "retry-after")


@dataclass(slots=True)
class Grant:
    """One run's right to use the gateway, and what the gateway saw of its last call.

    `resets_at` (Unix seconds) is when the API said that its rate limit is over.
    """

    digest: bytes
    unreachable: bool = False
    resets_at: float | None = None
    calls: set["asyncio.Task[httpx.Response]"] = field(default_factory=set)


class Gateway:
    """An ASGI application and its list of grants. `credentials` are the headers that open the upstream."""

    def __init__(
        self,
        upstream: str,
        credentials: Mapping[str, str],
        *,
        client: httpx.AsyncClient,
        now: Callable[[], float],
    ) -> None:
        self.url = ""
        self._upstream = upstream.rstrip("/")
        self._credentials = credentials
        self._client = client
        self._now = now
        self._grants: dict[bytes, Grant] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(Request(scope, receive))
        await answer(scope, receive, send)

    @contextlib.contextmanager
    def grant(self, token: str) -> Iterator[Grant]:
        """Let the token in for as long as the context lasts; calls that still wait are then broken off."""
        grant = Grant(_digest(token))
        self._grants[grant.digest] = grant
        try:
            yield grant
        finally:
            del self._grants[grant.digest]
            for call in grant.calls:
                call.cancel()

    @contextlib.asynccontextmanager
    async def listening(self, listener: socket.socket) -> AsyncIterator[None]:
        """Serve on this socket too, which may be in the network namespace of a run."""
        async with serving(self, listener):
            yield

    async def _answer(self, request: Request) -> Response:
        path = request.scope.get("raw_path", b"").decode("ascii", "replace")
        if request.method in ("HEAD", "GET") and path in _GREETINGS:
            return Response()
        grant = self._grant_of(request)
        if grant is None:
            return _error(
                401, "authentication_error", "This token is unknown to the gateway, or its run is over."
            )
        allowed = _FORWARDED.get(request.method)
        if allowed is None or not allowed.fullmatch(path):
            return _error(403, "permission_error", "The gateway lets only calls of the Messages API pass.")
        if not self._credentials:
            return _error(
                401, "authentication_error", "The service has no API key: ANTHROPIC_API_KEY is not set."
            )
        return await self._forward(request, path, grant)

    def _grant_of(self, request: Request) -> Grant | None:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        token = request.headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
        digest = _digest(token)
        grant = self._grants.get(digest)
        return grant if grant is not None and hmac.compare_digest(grant.digest, digest) else None

    async def _forward(self, request: Request, path: str, grant: Grant) -> Response:
        query = request.scope["query_string"].decode("ascii", "replace")
        outgoing = self._client.build_request(
            request.method,
            f"{self._upstream}{path}{'?' + query if query else ''}",
            headers=self._headers(request),
            content=request.stream() if request.method == "POST" else None,
        )
        call = asyncio.create_task(self._client.send(outgoing, stream=True))
        grant.calls.add(call)
        call.add_done_callback(grant.calls.discard)
        try:
            answer = await call
        except httpx.TransportError as error:
            grant.unreachable = True
            return _error(502, "api_error", f"The gateway cannot reach the API ({type(error).__name__}).")
        except ClientDisconnect:
            return Response(status_code=400)
        except asyncio.CancelledError:
            if grant.digest in self._grants:
                raise
            return _error(401, "authentication_error", "The run is over.")
        self._observe(answer, grant)
        return _passed_on(answer)

    def _headers(self, request: Request) -> dict[str, str]:
        named = {part.strip().lower() for part in request.headers.get("connection", "").split(",")}
        kept = {
            name: value
            for name, value in request.headers.items()
            if name not in _NOT_UPSTREAM and name not in named
        }
        return kept | dict(self._credentials)

    def _observe(self, answer: httpx.Response, grant: Grant) -> None:
        grant.unreachable = False
        if answer.status_code == 429:
            grant.resets_at = resets_at(answer.headers, self._now())


def resets_at(headers: Mapping[str, str], now: float) -> float | None:
    """When a rate limit is over, in Unix seconds: the API's own reset time, else `retry-after`."""
    for name in _RESETS:
        try:
            seconds = float(headers[name])
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < 1e11:  # also false for NaN
            return now + seconds if name == "retry-after" else seconds
    return None


@contextlib.asynccontextmanager
async def serve_gateway(
    upstream: str, credentials: Mapping[str, str], *, now: Callable[[], float]
) -> AsyncIterator[Gateway]:
    """On a free port of the loopback address, in the running loop."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(trust_env=False, timeout=timeout, limits=limits) as client:
        client.headers.clear()  # httpx's own would be added to those of the CLI
        gateway = Gateway(upstream, credentials, client=client, now=now)
        listener = listen("127.0.0.1", 0)
        gateway.url = url_of(listener)
        async with serving(gateway, listener):
            yield gateway


def _passed_on(answer: httpx.Response) -> Response:
    """The answer as it came, byte for byte: what was compressed stays so."""
    kept = {name: value for name, value in answer.headers.items() if name not in _HOP_BY_HOP}
    return StreamingResponse(_body(answer), status_code=answer.status_code, headers=kept)


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()


def _error(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"type": "error", "error": {"type": kind, "message": message}}, status_code=status)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
