"""A run is paid for: what must be written at its end is tried patiently, or it would run again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from overnight.flows.attempt import Attempt
from overnight.ports import StorageError

T = TypeVar("T")

log = logging.getLogger(__name__)

SAVE_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between tries to save what a run has come to, and to write it down."""


async def patiently(
    call: Callable[[], Awaitable[T]], attempt: Attempt, *, trouble: type[Exception] = StorageError
) -> T:
    """What `call` returns, tried once more after each of the attempt's delays, and after the last of them again and
    again while the store is away.

    Raises the `trouble` of the last try, and whatever else the call raises at once.
    """
    delays, tries = attempt.delays, 0
    while True:
        try:
            return await call()
        except trouble:
            if tries >= len(delays) and not attempt.stop.worth_waiting:
                raise
            log.exception("could not write down what a run of job %s has come to", attempt.job.job_id)
        await asyncio.sleep(delays[min(tries, len(delays) - 1)])
        tries += 1
