"""A server on loopback that takes webhooks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple


class Received(NamedTuple):
    """The names of `headers` are in lower case."""

    headers: dict[str, str]
    body: bytes


@contextlib.asynccontextmanager
async def webhook_receiver() -> AsyncIterator[tuple[str, asyncio.Queue[Received]]]:
    """Its URL, and what comes, in its order. Every webhook is answered with 204."""
    got: asyncio.Queue[Received] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, *head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head if line)
        }
        body = await reader.readexactly(int(headers["content-length"]))
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        got.put_nowait(Received(headers, body))

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", got
