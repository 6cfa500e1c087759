"""One object of the ledger: versioned documents in the SQLite storage of a Durable Object."""

import logging

from workers import DurableObject

from front import this_edge
from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import (
    ABSENT,
    Batch,
    Document,
    Found,
    Span,
    Written,
    batch_order,
    read_order,
    text,
)
from overnight.domain.job import Delivery, DeliveryStatus, Session
from overnight.ports import StorageError
from tending import Looked, is_owing, looked, tend

log = logging.getLogger(__name__)

TABLES = (
    "CREATE TABLE IF NOT EXISTS documents (key TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL)",
    "INSERT OR IGNORE INTO counter VALUES (1, 0)",
)
NEXT = "UPDATE counter SET version = version + 1 RETURNING version"
PUT = "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)"
GET = "SELECT key, version, body FROM documents WHERE key = ?"
SPAN = "SELECT key, version, body FROM documents WHERE key > ? AND key < ? ORDER BY key LIMIT ?"
LOOKED = "looked"
"""What the last alarm saw, kept beside the documents: an object is soon put to sleep."""
LAST = "\U0010ffff"


class Ledger(DurableObject):
    """Orders and answers are JSON (`overnight.adapters.cloudflare.documents`)."""

    def __init__(self, ctx, env):
        super().__init__(ctx, env)
        self._storage = ctx.storage
        for statement in TABLES:
            self._storage.sql.exec(statement)

    async def read(self, order: str) -> str:
        read = read_order.decode(order)
        rows = [row for key in read.keys for row in self._rows(GET, key)]
        for span in read.spans:
            rows += self._span(span)
        return text(Found({key: Document(version, body) for key, version, body in rows}))

    async def write(self, order: str) -> str:
        """One transaction: if one of the writes fails (a body is too large), none of them was made."""
        batch = batch_order.decode(order)
        written = self._storage.transactionSync(lambda: self._write(batch))
        if written and codec.SESSION in batch.expect and await self._storage.getAlarm() is None:
            await self._set_alarm()
        return text(Written(written))

    async def alarm(self, _info=None) -> None:
        """Look after the session as long as there is something to look after."""
        found = {key: body for key, _, body in self._rows(GET, codec.SESSION)}
        if not found:
            return
        session = codec.decode(Session, found[codec.SESSION])
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
        rows = self._span(Span(codec.DELIVERIES, limit=10_000))
        return [codec.decode(Delivery, body) for _, _, body in rows]

    def _write(self, batch: Batch) -> bool:
        if any(self._version(key) != version for key, version in batch.expect.items()):
            return False
        version = self._rows(NEXT)[0][0]
        if batch.wipe:
            self._storage.sql.exec("DELETE FROM documents")
        for key in batch.delete:
            self._storage.sql.exec("DELETE FROM documents WHERE key = ?", key)
        for key, body in batch.put.items():
            self._storage.sql.exec(PUT, key, version, body)
        return True

    def _version(self, key: str) -> int:
        rows = self._rows(GET, key)
        return rows[0][1] if rows else ABSENT

    def _span(self, span: Span) -> list:
        return self._rows(SPAN, max(span.prefix, span.after), span.prefix + LAST, span.limit)

    def _rows(self, statement: str, *values) -> list:
        return [tuple(row) for row in self._storage.sql.exec(statement, *values).raw().toArray()]
