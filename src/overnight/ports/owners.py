"""The view over all jobs of one owner."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Of one owner, as one read saw it: what its jobs have cost in a UTC day, in US dollars, and the attempts
    (job id and number) that still run, whose cost is therefore not in it."""

    spent_usd: float
    running: frozenset[tuple[str, int]]


class Owners(Protocol):
    """Both are for owners that have a key ("" is nobody's). Every method may raise StorageError."""

    async def books(self, owner: str, *, day: int) -> Books: ...

    async def held(self, owner: str, *, limit: int) -> Sequence[str]:
        """Ids of queued jobs that wait for a running job of their owner to end, the oldest first."""
        ...
