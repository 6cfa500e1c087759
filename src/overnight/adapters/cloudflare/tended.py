"""One object of the ledger: its documents, and the one alarm that looks after them (`looks.py` says when).

Whatever needs looking after has its alarm in the same transaction. Cloudflare writes at once what is written without
an `await` in between ("automatic write coalescing" in its reference of the storage), so nothing is awaited between a
batch and its alarm. That is why an object remembers its alarm instead of asking for it.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Protocol

from overnight.adapters.cloudflare import looks, sights
from overnight.adapters.cloudflare.documents import Batch
from overnight.adapters.cloudflare.looks import Sight
from overnight.adapters.cloudflare.object_rows import ObjectRows
from overnight.ports import Clock

log = logging.getLogger(__name__)


class Storage(Protocol):
    """What is used of a Durable Object's storage, by Cloudflare's names. Times are milliseconds since 1970."""

    def getAlarm(self) -> Awaitable[float | None]: ...  # noqa: N802

    def setAlarm(self, at: int) -> Awaitable[None]:  # noqa: N802
        """It is part of the transaction from the call on; the wait is for it to be durable."""
        ...

    def transactionSync(self, act: Callable[[], bool]) -> bool: ...  # noqa: N802


class TendedObject:
    def __init__(self, storage: Storage, rows: ObjectRows, clock: Clock, tend_seconds: float) -> None:
        self._storage = storage
        self._rows = rows
        self._clock = clock
        self._tend_seconds = tend_seconds
        self._knows_alarm = False
        self._alarm: float | None = None

    async def write(self, batch: Batch) -> bool:
        """One transaction: if one of the writes fails, none of them was made."""
        concerns_alarm = sights.concerns_alarm(batch)
        if concerns_alarm:
            await self._learn_alarm()
        now = self._clock.now()
        written = self._storage.transactionSync(lambda: self._rows.write(batch, now=now))
        if written and concerns_alarm:
            seen = sights.sight_of_a_write(self._rows, batch)
            at = looks.after_a_write(seen, now=now, tend_seconds=self._tend_seconds)
            if at is not None and (self._alarm is None or at < self._alarm):
                await self._set_alarm(at)
        return written

    async def alarm(self, tend: Callable[[Sight], Awaitable[None]], *, chance: float) -> None:
        """Look after the session as long as there is something to look after. The runtime has unset the alarm."""
        self._knows_alarm, self._alarm = True, None
        try:
            await tend(sights.sight_of_all(self._rows))
        except Exception:
            # The runtime tries an alarm that fails six times again, and then never (its page "Alarms").
            log.exception("could not look after a session")
        seen, now = sights.sight_of_all(self._rows), self._clock.now()
        at = looks.after_a_look(seen, now=now, tend_seconds=self._tend_seconds, chance=chance)
        if at is not None:
            await self._set_alarm(at)

    async def _learn_alarm(self) -> None:
        """Asked for once in the life of an instance, as nobody else sets it."""
        if self._knows_alarm:
            return
        told = await self._storage.getAlarm()
        if not self._knows_alarm:  # another write may have learnt it meanwhile, and set it
            self._knows_alarm, self._alarm = True, None if told is None else told / 1000

    async def _set_alarm(self, at: float) -> None:
        self._alarm = at
        await self._storage.setAlarm(math.ceil(at * 1000))
