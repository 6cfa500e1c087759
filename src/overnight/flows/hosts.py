"""At most so many sends at once to one receiver, so that a slow one holds up nobody else."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

AT_ONCE = 64
"""Of all hosts. A key at its usual pace (60 requests a minute) that makes slow names up holds some 23 of them: 30 jobs
sent and cancelled, three tries each in the first minutes, of 15 s at most."""
PER_HOST = 2  # facts: security 6
LONGEST_LINE = 200
"""Of one host. What finds the line full comes back later, so that others are seen."""
MOST = 1000
"""Of all hosts, held in memory."""


class HostBusy(Exception):
    """The host's turn did not come in time."""


class Hosts:
    def __init__(self) -> None:
        self._all = asyncio.Semaphore(AT_ONCE)
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._here: Counter[str] = Counter()

    @property
    def room(self) -> int:
        return max(MOST - self._here.total(), 0)

    @asynccontextmanager
    async def turn(self, host: str, *, patience_seconds: float) -> AsyncIterator[None]:
        """Wait for a free slot of the host and hold it. Raises HostBusy."""
        if self._here[host] >= LONGEST_LINE or patience_seconds <= 0:
            raise HostBusy(host)
        self._here[host] += 1
        slots = self._slots.setdefault(host, asyncio.Semaphore(PER_HOST))
        limit = asyncio.timeout(patience_seconds)
        try:
            # The host's slot first: a slow host never holds more than two of those that all share.
            async with limit, slots, self._all:
                limit.reschedule(None)
                yield
        except TimeoutError:
            if limit.expired():
                raise HostBusy(host) from None
            raise
        finally:
            self._here[host] -= 1
            if not self._here[host]:
                del self._here[host], self._slots[host]


def host_of(url: str) -> str:
    """Host and port as the URL names them: another name of the same machine counts as another receiver."""
    return urlsplit(url).netloc.lower()
