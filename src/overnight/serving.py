"""Serving an ASGI app with uvicorn inside the caller's event loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

BACKLOG = 2048
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
async def serving(app: Any, listener: socket.socket, *, grace_seconds: float = 1.0) -> AsyncIterator[None]:
    """Serve `app` while the block runs; then close the listener and give open requests `grace_seconds`.

    httptools and not h11: it refuses Content-Length beside Transfer-Encoding (facts: security 8). uvicorn keeps
    the switch of its access log in the process, so no server here may want one.
    """
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=max(int(grace_seconds), 1),
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


class _Protocol(HttpToolsProtocol):
    def on_headers_complete(self) -> None:
        self.scope["extensions"] = {TARGET: {"raw": self.url}}
        super().on_headers_complete()


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
