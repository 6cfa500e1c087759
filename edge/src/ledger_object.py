"""One object of the ledger: versioned documents in the SQLite storage of a Durable Object."""

import logging

from workers import DurableObject

from front import this_edge
from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import (
    Found,
    Read,
    Span,
    Written,
    batch_order,
    read_order,
    text,
)
from overnight.adapters.cloudflare.object_rows import ObjectRows
from overnight.domain.job import Delivery, DeliveryStatus, Session
from overnight.ports import StorageError
from tending import Looked, is_owing, looked, tend

log = logging.getLogger(__name__)

LOOKED = "looked"
"""What the last alarm saw, kept beside the documents: an object is soon put to sleep."""


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
        if written and codec.SESSION in batch.expect and await self._storage.getAlarm() is None:
            await self._set_alarm()
        return text(Written(written))

    async def alarm(self, _info=None) -> None:
        """Look after the session as long as there is something to look after."""
        found = self._rows.read(Read(keys=[codec.SESSION]))
        if not found:
            return
        session = codec.decode(Session, found[codec.SESSION].body)
        kept = await self._storage.get(LOOKED)
        before = looked.decode(kept) if isinstance(kept, str) else Looked()
        try:
            after = await tend(this_edge(), session.line, self._owing(), before)
            await self._storage.put(LOOKED, text(after))
        except StorageError:  # the runtime tries a failed alarm again only so often, and then never
            log.exception("could not look after a session")
        if session.line or self._owes():
            await self._set_alarm()

    async def _set_alarm(self) -> None:
        edge = this_edge()
        await self._storage.setAlarm(int((edge.clock.now() + edge.tend_seconds) * 1000))

    def _owing(self) -> list[str]:
        """The jobs whose webhooks nobody has tried for a while."""
        now = this_edge().clock.now()
        late = [owed.job_id for owed in self._deliveries() if is_owing(owed.status, owed.next_at, now)]
        return sorted(set(late))

    def _owes(self) -> bool:
        return any(owed.status is DeliveryStatus.OWED for owed in self._deliveries())

    def _deliveries(self) -> list[Delivery]:
        found = self._rows.read(Read(spans=[Span(codec.DELIVERIES, limit=10_000)]))
        return [codec.decode(Delivery, document.body) for document in found.values()]

    def _executed(self, statement: str, *values) -> list:
        return [tuple(row) for row in self._storage.sql.exec(statement, *values).raw().toArray()]
