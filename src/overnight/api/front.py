"""What every request passes first, and every answer last."""

import itertools
import logging
from collections.abc import Collection, Iterable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from overnight.api.problems import Code, Problem, answer_to, problem_of
from overnight.domain.redaction import Redactor

log = logging.getLogger(__name__)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = tuple(
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": CONTENT_SECURITY_POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
    }.items()
)
"""On every answer (facts: security 8). A second policy that an answer sets itself only narrows this one."""


MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
MAX_TARGET_BYTES = 8 * 1024


class Front:
    """Checks sizes and Host, numbers the request, adds the security headers, turns every error into a problem.

    The Host check is what keeps a web page from reaching a service on loopback under a name of its own (DNS
    rebinding).
    """

    def __init__(
        self, app: ASGIApp, *, allowed_hosts: Collection[str], id_prefix: str, redactor: Redactor
    ) -> None:
        self._app = app
        self._hosts = (
            None if "*" in allowed_hosts else frozenset(host.lower().encode() for host in allowed_hosts)
        )
        self._id_prefix = id_prefix
        self._redactor = redactor
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"{self._id_prefix}-{next(self._numbers):x}"
        answer = _Answer(scope, send, request_id)
        try:
            _check_size(scope)
            self._check_host(scope["headers"])
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            return
        except Exception as error:  # the border: whatever went wrong below is answered as a problem
            if answer.started:
                raise
            await answer_to(_told(error, request_id), request_id, self._redactor)(scope, receive, answer)

    def _check_host(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if self._hosts is None:
            return
        named = [value for name, value in headers if name == b"host"]
        if len(named) != 1 or _without_port(named[0]) not in self._hosts:
            raise Problem(Code.HOST_NOT_ALLOWED)


class _Answer:
    """The `send` of one request. An answer to HEAD keeps its headers and loses its body."""

    __slots__ = ("_headless", "_request_id", "_send", "started")

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._headless = scope["method"] == "HEAD"
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            request_id = (b"x-request-id", self._request_id.encode())
            message["headers"] = [*message["headers"], *SECURITY_HEADERS, request_id]
        elif self._headless:
            message["body"] = b""
        await self._send(message)


def _told(error: Exception, request_id: str) -> Problem:
    problem = problem_of(error)
    if problem is None or problem.kind.status in {500, 507} or problem.code is Code.STORAGE_FAILED:
        log.error("request %s failed", request_id, exc_info=error)
    return problem or Problem(Code.INTERNAL)


def _check_size(scope: Scope) -> None:
    """What the server has read already; it stops reading a head at twice this (`overnight.serving`)."""
    headers = scope["headers"]
    target = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES or target > MAX_TARGET_BYTES:
        raise Problem(Code.HEADERS_TOO_LARGE)


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    if colon and not port.endswith(b"]"):
        host = name
    return host.lower()
