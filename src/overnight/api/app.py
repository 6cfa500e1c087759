"""The HTTP API as an ASGI application."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from overnight.api import pages, service
from overnight.api.access import Gate
from overnight.api.front import Front
from overnight.api.openapi import document
from overnight.api.operations import OPERATIONS, Operation
from overnight.api.parts import ApiParts, Call, Limits, Readiness
from overnight.api.problems import Code, Problem
from overnight.domain.keys import Scope

__all__ = ["ApiParts", "Limits", "Readiness", "close_streams", "create_app"]


def create_app(
    parts: ApiParts, operations: Sequence[Operation] = OPERATIONS, *, elsewhere: Sequence[Operation] = ()
) -> Starlette:
    """`elsewhere` are calls of the API that this front does not serve: it says so, and does not describe them.

    Call `close_streams` before stopping the server: a stream of events would keep it from ending."""
    calls, gate = _calls(parts, operations, elsewhere), Gate(parts)
    front = Middleware(
        Front,
        allowed_hosts=parts.allowed_hosts,
        id_prefix=f"req_{parts.entropy.token()[:12]}",
        redactor=parts.redactor,
    )
    app = Starlette(
        routes=[Route(path, _Resource(parts, gate, calls[path])) for path in calls], middleware=[front]
    )
    app.router.redirect_slashes = False
    app.router.default = _nothing_here
    app.state.closing = asyncio.Event()
    return app


def close_streams(app: Starlette) -> None:
    """End every stream of events, now and from now on; clients come back with Last-Event-ID."""
    app.state.closing.set()


_Guarded = tuple[Call, Scope | None]
"""A call, and the scope that it needs."""


class _Resource:
    """Everything at one path: picks the call by the method."""

    def __init__(self, parts: ApiParts, gate: Gate, calls: Mapping[str, _Guarded]) -> None:
        self._parts = parts
        self._gate = gate
        self._calls = dict(calls)
        if "GET" in calls:
            self._calls["HEAD"] = calls["GET"]
        self._allow = ", ".join(sorted(self._calls))

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        found = self._calls.get(scope["method"])
        if found is None:
            raise Problem(Code.METHOD_NOT_ALLOWED, headers={"Allow": self._allow})
        call, needs = found
        await self._gate.admit(scope, needs)
        answer = await call(self._parts, Request(scope, receive))
        await answer(scope, receive, send)


async def _nothing_here(scope: AsgiScope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        return
    raise Problem(Code.NOT_FOUND)


async def _not_served(_: ApiParts, __: Request) -> Response:
    raise Problem(Code.NOT_SERVED)


def _calls(
    parts: ApiParts, operations: Sequence[Operation], elsewhere: Sequence[Operation]
) -> dict[str, dict[str, _Guarded]]:
    """Path to method to call, the busiest path first: routes are tried in order."""
    calls: dict[str, dict[str, _Guarded]] = {}
    for operation in operations:
        calls.setdefault(operation.path, {})[operation.method] = (operation.call, operation.needs)
    for operation in elsewhere:
        calls.setdefault(operation.path, {})[operation.method] = (_not_served, operation.needs)
    described = document(version=parts.version, limits=parts.limits, operations=operations)
    calls["/openapi.json"] = {"GET": _fixed(msgspec.json.encode(described), "application/json")}
    calls["/docs"] = {"GET": _fixed(pages.reference(described).encode(), "text/html")}
    calls["/docs/problems"] = {"GET": _fixed(pages.problems().encode(), "text/html")}
    calls["/docs/style.css"] = {"GET": _fixed(pages.style(), "text/css")}
    calls["/"] = {"GET": (service.front_page, None)}
    return calls


def _fixed(content: bytes, media_type: str) -> _Guarded:
    """A page of the service's own, which everybody may read."""

    async def page(_: ApiParts, __: Request) -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return page, None
