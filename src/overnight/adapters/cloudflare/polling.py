"""Wakeups where nobody can wake a waiter of another process: each looks again after a while."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class PollingSubscription:
    """The port `Subscription`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def wait(self, seconds: float) -> bool:
        """True when it is time to look again, which is a reason as good as any."""
        await asyncio.sleep(min(seconds, self._seconds))
        return seconds >= self._seconds


class PollingWakeups:
    """The port `Wakeups`, for the edge: its requests share nothing, so nothing is announced between them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def announce(self, *_: str) -> None:
        return

    @contextmanager
    def subscribe(self, _: str) -> Iterator[PollingSubscription]:
        yield PollingSubscription(self._seconds)
