"""A run is paid for: what must be written at its end is tried patiently, or it would run again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from overnight.flows.attempt import Attempt
from overnight.ports import StorageError

T = TypeVar("T")

log = logging.getLogger(__name__)


async def patiently(
    call: Callable[[], Awaitable[T]],
    *,
    attempt: Attempt,
    delays: Sequence[float],
    trouble: type[Exception] = StorageError,
) -> T:
    """What `call` returns, tried once more after each of the delays (seconds), and after the last of them again and
    again while the store is away.

    Raises the `trouble` of the last try, and whatever else the call raises at once.
    """
    tries = 0
    while True:
        try:
            return await call()
        except trouble:
            if tries >= len(delays) and not attempt.stop.worth_waiting:
                raise
            log.exception("could not write down what a run of job %s has come to", attempt.job.job_id)
        await asyncio.sleep(delays[min(tries, len(delays) - 1)])
        tries += 1
