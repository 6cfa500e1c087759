"""A Supabase project for each test (`place`, `archives`), and real servers on loopback for the sender of webhooks:
good ones, slow ones, hostile ones, and resolvers that lie.

`127.0.0.2` plays the allowed address, `127.0.0.1` the internal network that must never see a connection. Each
fixture is the function of its name.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from tests.supabase_server.place import Place, placed

from overnight.adapters.supabase import SupabaseArchives
from overnight.adapters.webhooks import Deadlines, WebhookSender
from overnight.domain.callback_url import CallbackPolicy
from overnight.ports import Receipt
from overnight.resolving import Resolver

ALLOWED = "127.0.0.2"
NAME = "receiver.example"
NOW = 1_764_000_000.0
QUICK = Deadlines(total=5.0, resolve=0.1, connect=0.3, read=0.3, write=0.3)

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FixedClock:
    def now(self) -> float:
        return NOW


@dataclass
class Receiver:
    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)


@asynccontextmanager
async def _receiving(
    answer: Answer | bytes, *, host: str = ALLOWED, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """A server that reads one request and answers; whatever is still open at the end is cut off."""
    receiver = Receiver()
    open_tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        receiver.connections += 1
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            receiver.requests.append(await request_of(reader))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        open_tasks.add(task)
        task.add_done_callback(open_tasks.discard)

    if tls is not None:
        tls.sni_callback = lambda _connection, name, _context: receiver.server_names.append(name)
    server = await asyncio.start_server(accept, host, port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in open_tasks:
            task.cancel()
        await asyncio.gather(*open_tasks, return_exceptions=True)


async def request_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head + await reader.readexactly(int(length.partition(b":")[2]))


def _headers_of(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _answering(*answers: str) -> Resolver:
    return lambda _host, _port: list(answers)


def _policy_for(*ports: int, allow: str = f"{ALLOWED}/32", allow_http: bool = True) -> CallbackPolicy:
    return CallbackPolicy(
        allow_http=allow_http, allow_private=(ip_network(allow),), ports=frozenset({443, *ports})
    )


def _sender(
    receiver: Receiver,
    resolver: Resolver = _answering(ALLOWED),  # noqa: B008 - a constant
    *,
    deadlines: Deadlines = QUICK,
    tls: ssl.SSLContext | None = None,
) -> WebhookSender:
    return WebhookSender(
        policy=_policy_for(receiver.port), clock=FixedClock(), resolver=resolver, tls=tls, deadlines=deadlines
    )


async def _deliver(receiver: Receiver, resolver: Resolver = _answering(ALLOWED)) -> Receipt:  # noqa: B008
    return await _sender(receiver, resolver).send(f"http://{NAME}:{receiver.port}/hook?x=1", {}, b"{}")


@pytest.fixture
def receiving() -> Any:
    return _receiving


@pytest.fixture
def sender() -> Any:
    return _sender


@pytest.fixture
def deliver() -> Any:
    return _deliver


@pytest.fixture
def policy_for() -> Any:
    return _policy_for


@pytest.fixture
def headers_of() -> Any:
    return _headers_of


@pytest.fixture
def answering() -> Any:
    return _answering


@pytest.fixture
def receiver_at() -> Any:
    """For a port where none of ours listens."""
    return lambda port: Receiver(port=port)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with placed(tmp_path) as opened:
        yield opened


@pytest.fixture
async def archives(place: Place) -> AsyncIterator[SupabaseArchives]:
    async with place.archives() as opened:
        yield opened
