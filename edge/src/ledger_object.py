"""One object of the ledger: versioned documents in the SQLite storage of a Durable Object, and an alarm."""

import logging
import math

from workers import DurableObject

from front import this_edge
from overnight.adapters.cloudflare import looks, sights
from overnight.adapters.cloudflare.documents import Found, Written, batch_order, read_order, text
from overnight.adapters.cloudflare.object_rows import ObjectRows
from overnight.ports import StorageError
from tending import tend

log = logging.getLogger(__name__)


class Ledger(DurableObject):
    """Orders and answers are JSON (`overnight.adapters.cloudflare.documents`)."""

    def __init__(self, ctx, env):
        super().__init__(ctx, env)
        self._storage = ctx.storage
        self._rows = ObjectRows(self._executed)

    async def read(self, order: str) -> str:
        return text(Found(self._rows.read(read_order.decode(order))))

    async def write(self, order: str) -> str:
        """One transaction: if one of the writes fails, none of them was made."""
        batch, now = batch_order.decode(order), this_edge().clock.now()
        written = self._storage.transactionSync(lambda: self._rows.write(batch, now=now))
        if written and sights.concerns_alarm(batch):
            seen = sights.sight_of_a_write(self._rows, batch)
            await self._look_by(looks.after_a_write(seen, now=now, tend_seconds=this_edge().tend_seconds))
        return text(Written(written))

    async def alarm(self, _info=None) -> None:
        """Look after the session as long as there is something to look after."""
        edge = this_edge()
        try:
            await tend(edge, sights.sight_of_all(self._rows))
        except StorageError:  # the runtime tries a failed alarm again only so often, and then never
            log.exception("could not look after a session")
        now, chance = edge.clock.now(), edge.entropy.chance()
        seen = sights.sight_of_all(self._rows)
        at = looks.after_a_look(seen, now=now, tend_seconds=edge.tend_seconds, chance=chance)
        if at is not None:
            await self._set_alarm(at)

    async def _look_by(self, at: float | None) -> None:
        """Bring the alarm forward, if it would come later. To set it is a row, to ask is none."""
        if at is None:
            return
        is_set = await self._storage.getAlarm()
        if is_set is None or is_set > at * 1000:
            await self._set_alarm(at)

    async def _set_alarm(self, at: float) -> None:
        await self._storage.setAlarm(math.ceil(at * 1000))

    def _executed(self, statement: str, *values) -> list:
        return [tuple(row) for row in self._storage.sql.exec(statement, *values).raw().toArray()]
