"""Connections that the egress proxy denied, as events of the job: a scan of a network must not drown the rest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_EVENTS = 50
"""Different denials of one run that become an event each."""


@dataclass(frozen=True, slots=True)
class Denial:
    """`reason` is a value of `domain.egress.Reason`."""

    host: str
    port: int
    reason: str


class Denials:
    """Each denial is told once; `close` tells how many there were, if that is more than was told."""

    def __init__(self, emit: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._emit = emit
        self._told: set[Denial] = set()
        self._count = 0

    def note(self, denial: Denial) -> None:
        self._count += 1
        if denial in self._told or len(self._told) >= MOST_EVENTS:
            return
        self._told.add(denial)
        self._emit("egress.denied", {"host": denial.host, "port": denial.port, "reason": denial.reason})

    def close(self) -> None:
        if self._count > len(self._told):
            self._emit("egress.denied_total", {"count": self._count, "told": len(self._told)})
