"""Waiting for what happens on the far side of a process boundary: no event of ours crosses it, so the fact itself is
looked at, again and again. Within one process a test waits for an event instead."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.1


async def until(holds: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Return once `holds` says so. Raises TimeoutError if it does not within `seconds`."""

    async def look() -> bool | None:
        return holds() or None

    await eventually(look, seconds=seconds)


async def eventually(look: Callable[[], Awaitable[T | None]], *, seconds: float = 60.0) -> T:
    """What `look` returns once it is not None. Raises TimeoutError if there is nothing within `seconds`."""
    pause = SHORTEST_PAUSE
    async with asyncio.timeout(seconds):
        while (found := await look()) is None:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
    return found
