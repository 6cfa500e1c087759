"""Blocking work in a thread that ends with the call that wanted it."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(work: Callable[[threading.Event], T]) -> T:
    """Run blocking work in a thread. When this is cancelled the event is set, and the end of the thread awaited."""
    called_off = threading.Event()
    thread = asyncio.ensure_future(asyncio.to_thread(work, called_off))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        called_off.set()
        while (
            not thread.done()
        ):  # however often it is cancelled: a `gather` that is would let go of the thread
            with suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # looked at
        raise
