"""A run is paid for: what it needs of the store at its end is asked for patiently, or it would run again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from overnight.ports import StorageError

T = TypeVar("T")

log = logging.getLogger(__name__)


async def patiently(call: Callable[[], Awaitable[T]], *, delays: Sequence[float], job_id: str) -> T:
    """What `call` returns, tried once more after each of the delays (seconds).

    Raises the StorageError of the last try, and whatever else the call raises at once.
    """
    for delay in delays:
        try:
            return await call()
        except StorageError:
            log.exception("the store does not answer at the end of a run of job %s", job_id)
            await asyncio.sleep(delay)
    return await call()
