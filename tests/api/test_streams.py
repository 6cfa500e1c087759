"""An answer that is sent in pieces gives back what it reads from, whenever the client leaves."""

import asyncio
import io
from collections.abc import MutableMapping
from typing import Any

import pytest

from overnight.api.streams import Stream, in_pieces


def reader(content: bytes, piece: int = 4, **more: Any) -> tuple[io.BytesIO, Stream]:
    source = io.BytesIO(content)
    return source, Stream(in_pieces(iter(lambda: source.read(piece), b"")), {}, source=source, **more)


async def silent() -> MutableMapping[str, Any]:
    """A client that stays and says nothing."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def test_all_pieces_arrive_and_the_source_is_closed() -> None:
    source, stream = reader(b"0123456789")
    sent = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    await stream({}, silent, send)
    assert b"".join(sent) == b"0123456789"
    assert source.closed


async def test_a_client_that_leaves_before_the_first_piece_leaves_no_open_file() -> None:
    source, stream = reader(b"0123456789")

    async def send(message: MutableMapping[str, Any]) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await stream({}, silent, send)
    assert source.closed


async def test_a_client_that_leaves_in_the_middle_leaves_no_open_file() -> None:
    source, stream = reader(b"0123456789")
    first = asyncio.Event()

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body" and message.get("body"):
            first.set()
            await asyncio.Event().wait()

    async def leaves() -> MutableMapping[str, Any]:
        await first.wait()
        return {"type": "http.disconnect"}

    async def closed_send(message: MutableMapping[str, Any]) -> None:
        if not first.is_set():
            await send(message)

    await stream({}, leaves, closed_send)
    assert source.closed


async def test_a_client_that_takes_nothing_is_dropped_and_leaves_no_open_file() -> None:
    source, stream = reader(b"0123456789", send_seconds=0.01)

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(stream({}, silent, send), 5)
    assert raised.group_contains(TimeoutError)
    assert source.closed
