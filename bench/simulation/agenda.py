"""Virtual time: whatever waits, waits here, and nothing else takes any."""

import heapq
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Process = Generator[float, None, T]
"""Something that happens over time: it yields the seconds that it waits, and returns a T."""


class Agenda:
    def __init__(self, now: float) -> None:
        self.now = now
        self._waiting: list[tuple[float, int, Process[None]]] = []
        self._made = 0

    def start(self, process: Process[None]) -> None:
        self._wait(0.0, process)

    def step(self) -> None:
        """Go to the next moment at which something happens, and let it happen."""
        self.now, _, process = heapq.heappop(self._waiting)
        try:
            seconds = next(process)
        except StopIteration:
            return
        self._wait(seconds, process)

    def _wait(self, seconds: float, process: Process[None]) -> None:
        self._made += 1  # of two things at one moment, the one that was there first
        heapq.heappush(self._waiting, (self.now + seconds, self._made, process))
