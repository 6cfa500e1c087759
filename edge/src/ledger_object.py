"""One object of the ledger: versioned documents in the SQLite storage of a Durable Object."""

from workers import DurableObject

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

TABLES = (
    "CREATE TABLE IF NOT EXISTS documents (key TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL)",
    "INSERT OR IGNORE INTO counter VALUES (1, 0)",
)
NEXT = "UPDATE counter SET version = version + 1 RETURNING version"
PUT = "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)"
GET = "SELECT key, version, body FROM documents WHERE key = ?"
SPAN = "SELECT key, version, body FROM documents WHERE key > ? AND key < ? ORDER BY key LIMIT ?"
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
        return text(Written(self._storage.transactionSync(lambda: self._write(batch))))

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
