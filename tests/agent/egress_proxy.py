"""The egress proxy over real sockets: a fake resolver says what a name means, a loopback server stands for the
Internet (the operator opened 127.0.0.1 alone, as everything else of loopback stays closed)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from overnight.agent.denials import Denial
from overnight.agent.egress import Egress, ProxyLimits
from overnight.agent.traffic import Traffic
from overnight.domain.address import CallbackPolicy
from overnight.domain.egress import EgressPolicy
from overnight.resolving import Resolver
from overnight.serving import listen

OPENED = CallbackPolicy(allow_private=(ip_network("127.0.0.1/32"),))
QUICK = ProxyLimits(head=0.3, resolve=0.3, connect=2.0, idle=0.5, farewell=0.3, connections=3)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Names:
    """What each name means, one answer after the other; the last one stays."""

    answers: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        answers = self.answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass
class Far:
    """The host at the other end: `serve` says what it does with a connection."""

    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
    port: int = 0
    connections: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self.serve(reader, writer)
        writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until its client has ended; then it says so, and ends as well."""
    while part := await reader.read(65536):
        writer.write(part)
        await writer.drain()
    writer.write(b"[end]")


async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the head that came, and what follows within a moment."""
    seen = await reader.readuntil(b"\r\n\r\n")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while part := await reader.read(65536):
                seen += part
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + seen)


@dataclass
class Proxy:
    port: int
    far: Far
    names: Names
    traffic: Traffic
    denied: list[Denial]

    async def connect(self) -> Connection:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, request: bytes) -> bytes:
        """All that comes back until the proxy closes."""
        reader, writer = await self.connect()
        writer.write(request)
        async with asyncio.timeout(10):
            answer = await reader.read(-1)
        writer.close()
        return answer

    async def tunnel(self, host: str) -> Connection:
        reader, writer = await self.connect()
        writer.write(f"CONNECT {host}:{self.far.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        return reader, writer

    async def status(self, target: str, method: str = "CONNECT") -> int:
        answer = await self.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return int(answer.split(b" ")[1])


@contextlib.asynccontextmanager
async def proxied(
    serve: Any = echo,
    *,
    limits: ProxyLimits = QUICK,
    resolver: Resolver | None = None,
    send_buffer: int | None = None,
    **policy: Any,
) -> AsyncIterator[Proxy]:
    far, names, denied = Far(serve), Names({"there.test": [["127.0.0.1"]]}), list[Denial]()
    server = await asyncio.start_server(far, "127.0.0.1", 0)
    far.port = server.sockets[0].getsockname()[1]
    egress = Egress(EgressPolicy(**({"addresses": OPENED} | policy)), resolver or names, limits=limits)
    listener = listen("127.0.0.1", 0)
    if send_buffer is not None:  # of its connections
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    port = listener.getsockname()[1]
    async with server, egress.listening(listener, denied.append) as traffic:
        yield Proxy(port, far, names, traffic, denied)
