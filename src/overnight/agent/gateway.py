"""The credential gateway: the only holder of the real key, and the only way from a run to the API.

A run knows a token that opens nothing else and dies with it. What may pass is a short list; the upstream is
fixed; the key is added here and stands in no process that an agent can look into. What passes is counted, and
stopped where the run's allowance ends.
"""

import asyncio
import contextlib
import hmac
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass

import httpx
import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from overnight.agent.grants import Allowance, Grant, digest_of
from overnight.agent.metering import Meter, Question
from overnight.domain.models import is_allowed
from overnight.serving import TARGET, serving

CONNECTIONS = 128
"""At once, of one listener; each takes a descriptor of the worker."""
CONNECT_SECONDS = 10.0
BODY_SECONDS = 60.0
"""For the whole body of a request; it comes from this machine."""
MAX_BODY_BYTES = 32 * 1024 * 1024
"""The API's own limit for a request to the Messages endpoint."""

_MESSAGES = "/v1/messages"
_FORWARDED = {
    "POST": re.compile(rf"{_MESSAGES}(/count_tokens)?"),
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
_NOT_UPSTREAM = _HOP_BY_HOP | {
    "accept-encoding",
    "authorization",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "x-api-key",
    "x-forwarded-for",
}
_NOT_DOWNSTREAM = _HOP_BY_HOP | {"content-length", "set-cookie"}
"""The length too: it is not ours to promise, since a revoked token ends an answer early."""

_RESETS = ("anthropic-ratelimit-unified-reset", "retry-after")


class Refusal(Exception):
    """What the gateway answers instead of the API, in the API's own shape."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.response = JSONResponse({"type": "error", "error": {"type": kind, "message": message}}, status)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A request that may pass, as it goes on to the API."""

    outgoing: httpx.Request
    question: Question
    is_metered: bool


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
        self._upstream = upstream.rstrip("/")
        self._credentials = credentials
        self._client = client
        self._now = now
        self._grants: dict[bytes, Grant] = {}

    @contextlib.asynccontextmanager
    async def listening(self, listener: socket.socket, *, only: Grant | None = None) -> AsyncIterator[None]:
        """Serve on a bound socket while the block runs. On a socket that belongs to one run, `only` its token
        is valid."""
        async with serving(_Door(self, only), listener, connections=CONNECTIONS):
            yield

    @contextlib.contextmanager
    def grant(self, token: str, allowance: Allowance | None = None) -> Iterator[Grant]:
        """Let the token in for as long as the context lasts, or until the grant is revoked."""
        grant = Grant(digest_of(token), allowance or Allowance())
        self._grants[grant.digest] = grant
        try:
            yield grant
        finally:
            del self._grants[grant.digest]
            grant.revoke()

    async def answer(self, scope: Scope, receive: Receive, send: Send, only: Grant | None) -> None:
        request = Request(scope, receive)
        try:
            path = _path(request)
            if request.method in ("HEAD", "GET") and path in _GREETINGS:
                await Response()(scope, receive, send)
                return
            grant = self._admitted(request, path, only)
            with grant.place():
                call = await self._call(request, path, grant)
                await self._relay(call, grant, receive, send)
        except Refusal as refusal:
            await refusal.response(scope, receive, send)
        except ClientDisconnect:
            pass

    def _admitted(self, request: Request, path: str, only: Grant | None) -> Grant:
        grant = self._grants.get(digest := digest_of(_token(request)))
        stranger = grant is None or not hmac.compare_digest(grant.digest, digest)
        if grant is None or stranger or (only is not None and grant is not only):
            raise _unknown_token()
        allowed = _FORWARDED.get(request.method)
        if allowed is None or not allowed.fullmatch(path):
            raise Refusal(403, "permission_error", "The gateway lets only calls of the Messages API pass.")
        if not self._credentials:
            raise Refusal(
                401, "authentication_error", "The service has no API key: ANTHROPIC_API_KEY is not set."
            )
        _check(grant)
        if grant.is_full:
            raise Refusal(
                429,
                "rate_limit_error",
                f"A run may have {grant.allowance.concurrency} calls at once, not more.",
            )
        return grant

    async def _call(self, request: Request, path: str, grant: Grant) -> _Call:
        body, question = None, Question()
        if request.method == "POST":
            body, question = _judged(await _body(request), grant.allowance.models)
        query = request.scope["query_string"].decode("ascii", "replace")
        outgoing = self._client.build_request(
            request.method,
            f"{self._upstream}{path}{'?' + query if query else ''}",
            headers=self._headers(request),
            content=body,
        )
        return _Call(outgoing=outgoing, question=question, is_metered=path == _MESSAGES)

    def _headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        """Values as they came: they may be no text."""
        named = {part.strip().lower() for part in request.headers.get("connection", "").split(",")}
        dropped = {name.encode("latin-1") for name in _NOT_UPSTREAM | named}
        kept = [(name, value) for name, value in request.headers.raw if name not in dropped]
        # Not compressed, so that the usage can be read as it passes.
        ours = {"accept-encoding": "identity", **self._credentials}
        return kept + [(name.encode(), value.encode()) for name, value in ours.items()]

    async def _relay(self, call: _Call, grant: Grant, receive: Receive, send: Send) -> None:
        """Until the answer has passed, the client has left, or the grant has ended."""
        relay = _Relay(self._client, call, grant, self._now, send)
        passing = asyncio.create_task(relay.run())
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            passing.cancel()
            leaving.cancel()
            await asyncio.wait({passing, leaving})
        if not passing.cancelled():
            passing.result()
        elif leaving.cancelled():
            await _end_early(relay, grant, send)


@dataclass(frozen=True, slots=True)
class _Door:
    """The gateway as one listener shows it."""

    gateway: Gateway
    only: Grant | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.gateway.answer(scope, receive, send, self.only)


@dataclass(slots=True)
class _Relay:
    """Passes one call on and its answer back, chunk by chunk, and counts."""

    client: httpx.AsyncClient
    call: _Call
    grant: Grant
    now: Callable[[], float]
    send: Send
    has_begun: bool = False

    async def run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        # Its body took time: the run may be over. Nothing else can happen before it is counted.
        _check(self.grant)
        with self.grant.call(task, self.call.question) as meter:
            sent = False
            try:
                answer = await self._answer()
                sent = True
                await self._pass_on(answer, meter)
            except asyncio.CancelledError:
                if self.call.is_metered and not sent:
                    meter.break_off()
                raise

    async def _answer(self) -> httpx.Response:
        self.grant.traffic.asked += 1
        self.grant.traffic.sent += self.call.question.size
        try:
            answer = await self.client.send(self.call.outgoing, stream=True)
        except httpx.TransportError as error:
            self.grant.unreachable = True
            raise Refusal(
                502, "api_error", f"The gateway cannot reach the API ({type(error).__name__})."
            ) from None
        self.grant.unreachable = False
        if answer.status_code == 429:
            self.grant.resets_at = resets_at(answer.headers, self.now())
        return answer

    async def _pass_on(self, answer: httpx.Response, meter: Meter) -> None:
        is_metered = self.call.is_metered and answer.status_code == 200
        try:
            await self._begin(answer)
            meter.begin(answer.headers.get("content-type", ""))
            async for chunk in answer.aiter_raw():
                await self._send_part(chunk)
                if is_metered:
                    meter.feed(chunk)
                    self.grant.check()
            await self._send_part(b"", more=False)
            if is_metered:
                meter.end()
        except (httpx.TransportError, asyncio.CancelledError) as error:
            if is_metered:
                meter.break_off()
            # Whoever reads must see that the answer is not whole: without its end, the connection is cut.
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            await answer.aclose()

    async def _begin(self, answer: httpx.Response) -> None:
        kept = [(name, value) for name, value in answer.headers.raw if _passes(name)]
        self.has_begun = True
        await self.send({"type": "http.response.start", "status": answer.status_code, "headers": kept})

    async def _send_part(self, part: bytes, *, more: bool = True) -> None:
        self.grant.traffic.received += len(part)
        await self.send({"type": "http.response.body", "body": part, "more_body": more})


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
async def open_gateway(
    upstream: str, credentials: Mapping[str, str], *, now: Callable[[], float]
) -> AsyncIterator[Gateway]:
    """A gateway that serves nobody yet: see `listening`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(trust_env=False, timeout=timeout, limits=limits) as client:
        client.headers.clear()  # httpx's own would be added to those of the CLI
        yield Gateway(upstream, credentials, client=client, now=now)


def _path(request: Request) -> str:
    target = request.scope.get("extensions", {}).get(TARGET, {}).get("raw", b"/")
    if not target.startswith(b"/"):
        raise Refusal(400, "invalid_request_error", "This is no proxy: ask for a path alone.")
    return str(request.scope["raw_path"].decode("ascii", "replace"))


def _token(request: Request) -> str:
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    return request.headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")


def _unknown_token() -> Refusal:
    return Refusal(401, "authentication_error", "This token is unknown to the gateway, or its run is over.")


def _check(grant: Grant) -> None:
    """Raises Refusal if the grant has ended."""
    if grant.revoked:
        raise _unknown_token()
    if not grant.check():
        raise Refusal(
            429,
            "rate_limit_error",
            "The budget of this run is used up: the gateway lets no more calls pass, and the run is stopped.",
        )


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise Refusal(
                        413, "request_too_large", "The request is larger than the API takes (32 MiB)."
                    )
    except TimeoutError:
        raise Refusal(408, "timeout_error", "The request did not come to its end in time.") from None
    return bytes(body)


def _judged(body: bytes, models: frozenset[str] | None) -> tuple[bytes, Question]:
    """The body as it goes on, and what it asks for.

    It is written anew from what was read: where a name stands twice, the API sees the one that was judged.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        wish = msgspec.json.decode(body, type=_Wish)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Refusal(400, "invalid_request_error", "The body is not a request for a message.") from None
    if models is not None and not is_allowed(wish.model, models):
        raise Refusal(403, "permission_error", "This run may not use the model that it asks for.")
    asked = Question(model=wish.model, max_tokens=wish.max_tokens, stream=wish.stream, size=len(body))
    return msgspec.json.encode(fields), asked


class _Wish(msgspec.Struct):
    model: str = ""
    max_tokens: int = 0
    stream: bool = False


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end_early(relay: _Relay, grant: Grant, send: Send) -> None:
    """The grant has ended in the middle of the call."""
    if relay.has_begun:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    else:
        _check(grant)


def _passes(name: bytes) -> bool:
    return name.decode("latin-1").lower() not in _NOT_DOWNSTREAM
