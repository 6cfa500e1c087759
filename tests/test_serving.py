"""The server hangs up on clients that are slow or endless on purpose."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from overnight.serving import MAX_HEAD_BYTES, listen, serving

PATIENCE = 10.0


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Endless:
    """Sends without end, until it is told that the client has gone."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sending = asyncio.create_task(self._send(send))
        while (await receive())["type"] != "http.disconnect":
            pass
        sending.cancel()
        self.gone.set()

    async def _send(self, send: Any) -> None:
        while True:
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def served(head_seconds: float) -> AsyncIterator[int]:
    """The port of a server that waits so long for a head."""
    listener = listen("127.0.0.1", 0)
    async with serving(app, listener, head_seconds=head_seconds):
        yield listener.getsockname()[1]


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with served(head_seconds=0.3) as port:
        yield port


async def ending(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the other side hangs up."""
    async with asyncio.timeout(PATIENCE):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n"], ids=["nothing", "half a head"])
async def test_a_head_that_does_not_come_in_time_ends_the_connection(port: int, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    assert await ending(reader) == b""
    writer.close()


async def test_a_drip_of_headers_gains_no_time(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\n")

    async def drip() -> None:
        while True:
            writer.write(b"X: y\r\n")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    assert await ending(reader) == b""
    dripping.cancel()
    writer.close()


async def test_a_head_without_end_ends_the_connection() -> None:
    async with served(head_seconds=60.0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nX: " + b"a" * (2 * MAX_HEAD_BYTES))
        assert await ending(reader) == b""
        writer.close()


async def test_a_connection_that_is_used_again_is_held_to_the_same(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    writer.write(b"GET / HTTP/1.1\r\n")
    assert await ending(reader) == b""
    writer.close()


@pytest.mark.parametrize("late", [b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx"])
async def test_bytes_that_begin_no_request_keep_no_connection(late: bytes) -> None:
    """uvicorn stops counting its seconds of idleness (5) at any byte."""
    async with served(head_seconds=60.0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(late)
        if late.startswith(b"GET"):
            await reader.readuntil(b"ok")
            writer.write(b"y")
        assert await ending(reader) == b""
        writer.close()


async def test_a_client_that_takes_nothing_is_let_go_of() -> None:
    endless = Endless()
    with (
        contextlib.closing(listen("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        async with serving(endless, listener, send_seconds=0.3), asyncio.timeout(PATIENCE):
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await endless.gone.wait()


async def test_a_client_that_takes_its_time_gets_all() -> None:
    """Of one large answer, which waits in the server as a whole."""
    size = 8 << 20

    async def large(scope: Any, receive: Any, send: Any) -> None:
        length = (b"content-length", str(size).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": bytes(size)})

    with contextlib.closing(listen("127.0.0.1", 0)) as listener:
        async with serving(large, listener, send_seconds=0.2):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            taken = 0
            while piece := await reader.read(65536):
                taken += len(piece)
                await asyncio.sleep(0.005)
            writer.close()
    assert taken == size
