"""Blocking work in a thread that ends with the call that wanted it."""

import asyncio
import threading
from collections.abc import Callable
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
        await asyncio.gather(thread, return_exceptions=True)
        raise
