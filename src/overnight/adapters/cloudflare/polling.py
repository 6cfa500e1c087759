"""Wakeups where nobody can wake a waiter of another process: each looks again after a while."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from overnight.ports import Subscription, Wakeups


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


class LookingSubscription:
    """The port `Subscription`."""

    def __init__(self, inner: Subscription, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds

    async def wait(self, seconds: float) -> bool:
        return await self._inner.wait(min(seconds, self._seconds)) or seconds >= self._seconds


class LookingWakeups:
    """The port `Wakeups`, for a worker: what this process writes wakes at once, the rest is looked for."""

    def __init__(self, inner: Wakeups, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds

    def announce(self, *topics: str) -> None:
        self._inner.announce(*topics)

    @contextmanager
    def subscribe(self, topic: str) -> Iterator[LookingSubscription]:
        with self._inner.subscribe(topic) as inner:
            yield LookingSubscription(inner, self._seconds)
