"""Waiting where nobody can wake a waiter of another process: each looks again after a while."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from overnight.ports import Subscription, Wakeups

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0


class Pace:
    """When to look again, given what the looks before have found: ever more seldom while it is nothing.

    Times are of any one clock. It outlasts a single wait: else one who waits again and again would always begin anew.
    """

    def __init__(self) -> None:
        self._next = 0.0
        self._pause = FIRST_PAUSE_SECONDS

    def left(self, now: float) -> float:
        """Seconds until the next look."""
        return max(self._next - now, 0.0)

    def looked(self, now: float, *, found: bool) -> None:
        if found:
            self._next, self._pause = now, FIRST_PAUSE_SECONDS
        else:
            self._next = now + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)


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


JOBS = "job:"


class LookingWakeups:
    """The port `Wakeups`, for a worker: what this process owes wakes at once, the rest is looked for.

    What it writes of a job wakes nobody: only the keeper of its lease waits for that, has it from the write itself, and
    would pay for a look.
    """

    def __init__(self, inner: Wakeups, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds

    def announce(self, *topics: str) -> None:
        self._inner.announce(*(topic for topic in topics if not topic.startswith(JOBS)))

    @contextmanager
    def subscribe(self, topic: str) -> Iterator[LookingSubscription]:
        with self._inner.subscribe(topic) as inner:
            yield LookingSubscription(inner, self._seconds)
