"""The doorbell in SQLite: one row per job that is to be looked at, hidden while a worker holds it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from overnight.adapters.sqlite.database import Database
from overnight.ports import Bell, Clock, Entropy, Wakeups

TOPIC = "queue"

# A held bell that is sent again is a new bell: whoever holds the old one cannot ack it away.
SEND = """
INSERT INTO bells (job_id, visible_at) VALUES (?, ?)
ON CONFLICT (job_id) DO UPDATE SET
    visible_at = iif(receipt IS NULL, min(visible_at, excluded.visible_at), excluded.visible_at),
    rung = iif(receipt IS NULL, rung, 0),
    receipt = NULL
"""
_DUE = "SELECT job_id, rung + 1 FROM bells WHERE visible_at <= ? ORDER BY visible_at LIMIT ?"
_HOLD = "UPDATE bells SET receipt = ?, rung = ?, visible_at = ? WHERE job_id = ?"
_NEXT = "SELECT min(visible_at) FROM bells"
_ACK = "DELETE FROM bells WHERE job_id = ? AND receipt = ?"
_RETRY = "UPDATE bells SET visible_at = ?, receipt = NULL WHERE job_id = ? AND receipt = ?"


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at the queue found: bells, or when there may be some."""

    bells: Sequence[Bell]
    next_at: float | None


class SqliteQueue:
    """The port `Queue`."""

    def __init__(self, database: Database, wakeups: Wakeups, clock: Clock, entropy: Entropy) -> None:
        self._database = database
        self._wakeups = wakeups
        self._clock = clock
        self._entropy = entropy

    async def send(self, job_id: str, *, at: float) -> None:
        await self._execute(SEND, job_id, at)

    async def receive(self, *, limit: int, visibility_seconds: float, wait_seconds: float) -> Sequence[Bell]:
        ends = asyncio.get_running_loop().time() + wait_seconds
        with self._wakeups.subscribe(TOPIC) as subscription:
            while True:
                look = await self._look(limit, visibility_seconds)
                left = ends - asyncio.get_running_loop().time()
                if look.bells or left <= 0:
                    return look.bells
                await subscription.wait(min(left, self._seconds_until(look.next_at)))

    async def ack(self, bell: Bell) -> None:
        await self._database.write(lambda connection: connection.execute(_ACK, (bell.job_id, bell.receipt)))

    async def retry(self, bell: Bell, *, at: float) -> None:
        await self._execute(_RETRY, at, bell.job_id, bell.receipt)

    async def _execute(self, statement: str, *values: str | float) -> None:
        await self._database.write(
            lambda connection: connection.execute(statement, values),
            committed=lambda _: self._wakeups.announce(TOPIC),
        )

    async def _look(self, limit: int, visibility_seconds: float) -> _Look:
        now, receipt = self._clock.now(), self._entropy.token()
        return await self._database.write(
            lambda connection: _take(connection, receipt, limit, now, now + visibility_seconds)
        )

    def _seconds_until(self, at: float | None) -> float:
        return float("inf") if at is None else max(at - self._clock.now(), 0.0)


def _take(connection: apsw.Connection, receipt: str, limit: int, now: float, hidden_until: float) -> _Look:
    """Hold the due bells. One receipt serves for all of them: an ack names the job too."""
    due: list[Any] = connection.execute(_DUE, (now, limit)).fetchall()
    connection.executemany(_HOLD, ((receipt, rung, hidden_until, job_id) for job_id, rung in due))
    bells = [Bell(job_id=job_id, receipt=receipt, rung=rung) for job_id, rung in due]
    return _Look(bells, next_at=connection.execute(_NEXT).get)
