"""Serving an ASGI app with uvicorn inside the caller's event loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

BACKLOG = 2048
HEAD_SECONDS = 10.0
SEND_SECONDS = 30.0
LEAST_TAKEN_BYTES = 4096
"""Of an answer, in SEND_SECONDS: a client that takes less is dropped (facts: queue 5)."""
MAX_HEAD_BYTES = 48 * 1024
"""Twice what an application takes of headers and target, which it refuses in words. Past this we hang up."""
TARGET = "overnight.target"
"""Extension of the scope: `{"raw": bytes}`, the request target as it was sent. ASGI keeps only its path."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises OSError, where uvicorn would end the process."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.asynccontextmanager
async def serving(
    app: Any,
    listener: socket.socket,
    *,
    grace_seconds: float = 1.0,
    head_seconds: float = HEAD_SECONDS,
    send_seconds: float = SEND_SECONDS,
    connections: int | None = None,
) -> AsyncIterator[None]:
    """Serve `app` while the block runs; then close the listener and give open requests `grace_seconds`.

    A client has `head_seconds` for a request line and its headers, and `send_seconds` to take LEAST_TAKEN_BYTES of its
    answer. Whoever connects past `connections` at once is hung up on; None is no limit.

    httptools and not h11: it refuses Content-Length beside Transfer-Encoding (facts: security 8). uvicorn keeps
    the switch of its access log in the process, so no server here may want one.
    """
    config = _Config(
        app,
        head_seconds=head_seconds,
        send_seconds=send_seconds,
        http=PromptHttp,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=max(int(grace_seconds), 1),
        backlog=connections or BACKLOG,  # also how many are taken before any of them is looked at
        limit_concurrency=None if connections is None else connections + 1,
    )
    server = _Server(config)
    # Not a TaskGroup: it would wrap what the caller's block raises.
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await server.ready.wait()
        yield
    finally:
        server.should_exit = True
        await task
        listener.close()


class _Config(uvicorn.Config):
    def __init__(self, app: Any, *, head_seconds: float, send_seconds: float, **options: Any) -> None:
        super().__init__(app, **options)
        self.head_seconds = head_seconds
        self.send_seconds = send_seconds


class PromptHttp(HttpToolsProtocol):
    """Hangs up on a client whose request line and headers are not there in time, or never end, on one that does not
    take its answer, and on one too many.

    uvicorn has none of these limits (facts: security 8): a client that sends one byte now and then holds a connection
    for ever, so does one that stops reading, and one that sends headers without end fills the memory.
    """

    config: _Config
    _deadline: asyncio.TimerHandle | None = None
    _look: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # we are told of every byte that waits to be taken
        self._wait_for_head()
        # uvicorn would only refuse requests, and let those stay that send none.
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self.connections.discard(self)
            transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_looking()

    def data_received(self, data: bytes) -> None:
        if self._deadline is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._deadline is not None and self._head_bytes > MAX_HEAD_BYTES:
            self.transport.abort()
        self._rest_again()

    def on_message_begin(self) -> None:
        self._wait_for_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self.scope["extensions"] = {TARGET: {"raw": self.url}}
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_looking()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self._deadline is None:
            self._head_bytes = 0
            self._deadline = self.loop.call_later(self.config.head_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _rest_again(self) -> None:
        """uvicorn forgets its keep-alive at any byte, also at one that begins no request: a line end, a late body."""
        answered = self.cycle is not None and self.cycle.response_complete
        if answered and self._deadline is None and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            resting = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
            self.timeout_keep_alive_task = resting

    def _look_later(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._look = self.loop.call_later(self.config.send_seconds, self._look_at_what_is_left, left)

    def _look_at_what_is_left(self, before: int) -> None:
        """A server that closes a connection waits for ever until all is taken: this one lets go of it."""
        if before - self.transport.get_write_buffer_size() < LEAST_TAKEN_BYTES:
            self.transport.abort()
        else:
            self._look_later()

    def _stop_looking(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to whoever owns the process."""
        yield
