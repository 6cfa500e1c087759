"""A line between a client and a server that can be cut, made slow, and read like a meter."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from overnight.serving import listen, url_of

BLOCK = 64 * 1024
SHORTEST_SLEEP = 0.005


@dataclass
class Wire:
    """`cuts_up` and `cuts_down`: total bytes at which the connection that carries them is reset.

    `uplink` in bytes per second; None is as fast as it goes.
    """

    url: str = ""
    up: int = 0
    down: int = 0
    cuts_up: list[int] = field(default_factory=list)
    cuts_down: list[int] = field(default_factory=list)
    uplink: float | None = None
    _due: float = 0.0
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def count_up(self, size: int) -> None:
        self.up += size
        self._moved.set()

    async def carried_up(self, size: int) -> None:
        """Return when the line has carried so many bytes up. For one waiter at a time."""
        while self.up < size:
            self._moved.clear()
            await self._moved.wait()

    async def rest(self, size: int) -> None:
        """As long as the block takes on the line. What is too short to sleep for is made up for later."""
        if self.uplink is None:
            return
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now) + size / self.uplink
        if self._due - now > SHORTEST_SLEEP:
            await asyncio.sleep(self._due - now)


@asynccontextmanager
async def wired(server: str) -> AsyncIterator[Wire]:
    wire, target = Wire(), urlsplit(server)
    listener = listen("127.0.0.1", 0)
    wire.url = url_of(listener)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(target.hostname, target.port)
        both = asyncio.gather(_up(wire, reader, far_writer), _down(wire, far_reader, writer))
        try:
            with suppress(_Cut, OSError, asyncio.CancelledError):
                await both
        finally:
            both.cancel()
            _reset(writer)
            far_writer.transport.abort()

    async with await asyncio.start_server(carry, sock=listener):
        yield wire


class _Cut(Exception):
    pass


async def _up(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(BLOCK):
        wire.count_up(len(block))
        await wire.rest(len(block))
        writer.write(block)
        await writer.drain()
        _cut(wire.cuts_up, wire.up)
    writer.write_eof()


async def _down(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(BLOCK):
        wire.down += len(block)
        writer.write(block)
        await writer.drain()
        _cut(wire.cuts_down, wire.down)
    writer.close()


def _cut(cuts: list[int], carried: int) -> None:
    if cuts and carried >= cuts[0]:
        cuts.pop(0)
        raise _Cut


def _reset(writer: asyncio.StreamWriter) -> None:
    """Not a clean end: a reset, as a crashed machine or a dropped mapping sends."""
    line = writer.get_extra_info("socket")
    if line is not None:
        with suppress(OSError):
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
