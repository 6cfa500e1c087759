"""Answers that are sent piece by piece: they end when the client does, and wait for none that has stopped."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from starlette.datastructures import MutableHeaders
from starlette.types import Receive, Scope, Send

SEND_SECONDS = 30.0
"""A client that takes nothing for so long is dropped (facts: queue 5)."""


class Closable(Protocol):
    def close(self) -> object: ...


class Stream:
    """Sends until the body ends, the client goes or takes nothing for `send_seconds`, or `closing` is set; then closes
    `source`, begun or not.

    Starlette's own streaming answer waits for ever for a client that has stopped reading.
    """

    def __init__(
        self,
        body: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        *,
        status: int = 200,
        closing: asyncio.Event | None = None,
        source: Closable | None = None,
        send_seconds: float = SEND_SECONDS,
    ) -> None:
        self._source = source
        self._body = body
        self._status = status
        self._headers = MutableHeaders(headers).raw
        self._closing = closing
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(receive, send)
        finally:
            if self._source is not None:
                await asyncio.to_thread(self._source.close)

    async def _answer(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        stories = [self._send_all(send), _until_gone(receive)]
        if self._closing is not None:
            stories.append(_until_set(self._closing))
        await _until_one_ends(*stories)
        await send({"type": "http.response.body", "body": b""})

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._body) as body:
            async for piece in body:
                async with asyncio.timeout(self._send_seconds):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})


async def in_pieces(blocking: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The same pieces, each read in a thread. Its end waits for a thread that still reads."""
    reading: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            reading = asyncio.ensure_future(asyncio.to_thread(next, blocking, None))
            piece = await asyncio.shield(reading)
            if piece is None:
                return
            yield piece
    finally:
        if reading is not None:
            await asyncio.wait([reading])


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _until_set(event: asyncio.Event) -> None:
    await event.wait()


async def _until_one_ends(*stories: Coroutine[Any, Any, None]) -> None:
    """Run them side by side; when one ends, the others are cancelled. What one raises is raised."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(story) for story in stories]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
