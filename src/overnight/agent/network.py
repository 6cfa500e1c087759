"""The network of one run: two listeners that are the worker's, and the addresses that the agent knows them by.

In a tier with a network namespace the listeners are opened inside of it, while the sandbox is held back
(`join_network.py`); nothing else answers there. In the other tiers they are on free ports of the loopback address.
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from overnight.serving import listen, url_of

INFO, BLOCK = "info", "block"
"""FIFOs of a run: bubblewrap writes its child's pid to the one, and reads the other before it goes on."""

GATEWAY_URL, PROXY_URL = "http://127.0.0.1:8080", "http://127.0.0.1:3128"
"""Inside a network namespace; the ports are those of `join_network.py`."""


class NetworkUnavailable(Exception):
    """The listeners of a run could not be opened. The message says why."""


@dataclass(frozen=True, slots=True)
class Listeners:
    gateway: socket.socket
    egress: socket.socket

    def close(self) -> None:
        self.gateway.close()
        self.egress.close()


class RunNetwork(Protocol):
    @property
    def gateway_url(self) -> str: ...

    @property
    def proxy_url(self) -> str: ...

    async def listeners(self) -> Listeners:
        """Returns once the launcher has been started. Whoever asks has them, and closes them.

        Raises NetworkUnavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class LoopbackNetwork:
    """Shared with the whole host: that an agent reaches nothing else is for another part of its tier to see to."""

    opened: Listeners

    @property
    def gateway_url(self) -> str:
        return url_of(self.opened.gateway)

    @property
    def proxy_url(self) -> str:
        return url_of(self.opened.egress)

    async def listeners(self) -> Listeners:
        return self.opened


@contextlib.contextmanager
def loopback_network() -> Iterator[LoopbackNetwork]:
    opened = Listeners(listen("127.0.0.1", 0), listen("127.0.0.1", 0))
    try:
        yield LoopbackNetwork(opened)
    finally:
        opened.close()


@dataclass(frozen=True, slots=True)
class PrivateNetwork:
    answer: socket.socket
    gateway_url: str = GATEWAY_URL
    proxy_url: str = PROXY_URL

    async def listeners(self) -> Listeners:
        await _readable(self.answer)
        text, descriptors, _, _ = socket.recv_fds(self.answer, 1024, 2)
        if len(descriptors) != 2:
            said = text.decode(errors="replace").removeprefix("-")
            raise NetworkUnavailable(said or "the helper that joins the sandbox's network died")
        gateway, egress = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        return Listeners(gateway, egress)


class Joiner:
    """The helper process, started when it is first needed, and again if it has died."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._orders: socket.socket | None = None
        self._starting = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def private_network(self, directory: Path) -> AsyncIterator[PrivateNetwork]:
        """`directory` gets the two FIFOs that bubblewrap is to be started with."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                orders = await self._running()
                with _fifos(directory) as (info, block):
                    socket.send_fds(orders, [b"+"], [info, block, theirs.fileno()])
            ours.setblocking(False)
            yield PrivateNetwork(ours)

    async def _running(self) -> socket.socket:
        async with self._starting:
            if self._orders is None or self._process is None or self._process.returncode is not None:
                await self.close()
                self._process, self._orders = await _start()
            return self._orders

    async def close(self) -> None:
        """The helper ends when its socket does."""
        if self._orders is not None:
            self._orders.close()
        if self._process is not None:
            await self._process.wait()


async def _start() -> tuple[asyncio.subprocess.Process, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", str(Path(__file__).with_name("join_network.py")), str(os.getpid())),
            stdin=theirs.fileno(),
            stdout=asyncio.subprocess.DEVNULL,
            env={},
        )
    return process, ours


@contextlib.contextmanager
def _fifos(directory: Path) -> Iterator[tuple[int, int]]:
    """Opened in the order in which nobody has to wait for the other side."""
    for name in (INFO, BLOCK):
        (directory / name).unlink(missing_ok=True)
        os.mkfifo(directory / name, 0o600)
    info = os.open(directory / INFO, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    block = os.open(directory / BLOCK, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield info, block
    finally:
        os.close(info)
        os.close(block)


async def _readable(source: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(source, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(source)
