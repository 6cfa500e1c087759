"""Tasks that are ended for certain, and work that a cancellation does not cut short."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def cancelled(task: "asyncio.Task[None]") -> None:
    """End the task; what it raised has been looked at, or does not matter any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Finish the work, which bounds itself, even if we are cancelled meanwhile; the cancellation comes after."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return task.result()
