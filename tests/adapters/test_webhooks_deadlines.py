"""Receivers and resolvers that are slow or silent are left in time."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import pytest

from overnight.adapters.webhooks import DEFAULT_DEADLINES, Deadlines
from overnight.ports import Receipt
from overnight.resolving import Resolver

ALLOWED = "127.0.0.2"
NAME = "receiver.example"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
QUICK = Deadlines(total=5.0, resolve=0.1, connect=0.3, read=0.3, write=0.3)


async def drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("start", "receipt"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", Receipt(failure="timeout")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", Receipt(status=200)),
    ],
)
async def test_a_slow_drip_is_cut_at_the_total_deadline(
    start: bytes, receipt: Receipt, receiving: Any, sender: Any
) -> None:
    cut = asyncio.Event()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        try:
            await drip(writer)
        except OSError:
            cut.set()

    async with asyncio.timeout(5), receiving(answer) as receiver:
        webhooks = sender(receiver, deadlines=replace(QUICK, total=0.4))
        assert await webhooks.send(f"http://{NAME}:{receiver.port}/", {}, b"") == receipt
        await cut.wait()


async def test_a_silent_receiver_is_left_at_the_read_deadline(receiving: Any, sender: Any) -> None:
    async def answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with receiving(answer) as receiver:
        webhooks = sender(receiver, deadlines=replace(DEFAULT_DEADLINES, read=0.1))
        async with asyncio.timeout(5):
            receipt = await webhooks.send(f"http://{NAME}:{receiver.port}/", {}, b"")
    assert receipt == Receipt(failure="timeout")


async def test_a_receiver_that_reads_nothing_is_left_at_the_write_deadline(
    sender: Any, receiver_at: Any
) -> None:
    with closing(socket.create_server((ALLOWED, 0))) as listening:  # accepts in the kernel, reads never
        receiver = receiver_at(listening.getsockname()[1])
        webhooks = sender(receiver, deadlines=replace(DEFAULT_DEADLINES, write=0.1))
        async with asyncio.timeout(5):
            receipt = await webhooks.send(f"http://{NAME}:{receiver.port}/", {}, bytes(32 * 2**20))
    assert receipt == Receipt(failure="timeout")


@pytest.fixture
def hanging() -> Iterator[Resolver]:
    release = threading.Event()

    def resolver(host: str, _port: int) -> Sequence[str]:
        if host != NAME:
            release.wait()
        return [ALLOWED]

    yield resolver
    release.set()


async def test_resolvers_that_hang_fail_alone(hanging: Resolver, receiving: Any, sender: Any) -> None:
    async with receiving(OK) as receiver:
        webhooks = sender(receiver, hanging)
        stuck = [webhooks.send(f"http://{n}.hang.example:{receiver.port}/", {}, b"") for n in ("a", "b") * 20]
        async with asyncio.timeout(5):
            *failed, good = await asyncio.gather(
                *stuck, webhooks.send(f"http://{NAME}:{receiver.port}/", {}, b"")
            )
    assert set(failed) == {Receipt(failure="dns")}
    assert good == Receipt(status=200)


async def test_a_host_that_does_not_answer_is_left_at_the_connect_deadline(
    deliver: Any, receiver_at: Any
) -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(closing(socket.create_server((ALLOWED, 0), backlog=0)))
        for _ in range(4):  # fills the backlog: the kernel then drops what comes
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        async with asyncio.timeout(5):
            assert await deliver(receiver_at(listening.getsockname()[1])) == Receipt(failure="timeout")


async def test_a_handshake_that_never_ends_is_left_at_the_connect_deadline(
    sender: Any, receiver_at: Any
) -> None:
    with closing(socket.create_server((ALLOWED, 0))) as listening:
        receiver = receiver_at(listening.getsockname()[1])
        async with asyncio.timeout(5):
            receipt = await sender(receiver).send(f"https://{NAME}:{receiver.port}/", {}, b"")
    assert receipt == Receipt(failure="timeout")
