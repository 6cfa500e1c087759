"""The server hangs up on clients that are slow or endless on purpose."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from overnight.serving import MAX_HEAD_BYTES, listen, serving

PATIENCE = 10.0


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


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
