"""The edge's ledger in this process, on SQLite and on the edge's own code, which counts what Cloudflare charges for.

How many rows a statement writes was read from `rowsWritten` of workerd 1.20261117: a row is one, and one more for each
index beside the table; a table that is made is two.
"""

import math
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from overnight.adapters.cloudflare import codec, looks, sights
from overnight.adapters.cloudflare.documents import Batch, Document, Read
from overnight.adapters.cloudflare.object_rows import ObjectRows

ROWS_OF_A_NEW_TABLE = 2


@dataclass(slots=True)
class Counts:
    """`inner`: requests to objects that no worker made. `of_...`: those to such objects. `largest` is that of a value
    that was bound to a statement, in bytes."""

    reads: int = 0
    writes: int = 0
    inner: int = 0
    rows_written: int = 0
    bells: int = 0
    kv_writes: int = 0
    of_routes: int = 0
    of_owners: int = 0
    largest: int = 0

    @property
    def requests(self) -> int:
        return self.reads + self.writes


@dataclass
class CountedObject:
    """One Durable Object. Its alarm is counted by whoever sets it."""

    counts: Counts
    _database: sqlite3.Connection = field(
        default_factory=lambda: sqlite3.connect(":memory:", isolation_level=None)
    )

    def execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        sizes = (len(value.encode()) for value in values if isinstance(value, str))
        self.counts.largest = max(self.counts.largest, *sizes, 0)
        made = self._tables()
        cursor = self._database.execute(statement, values)
        rows = cursor.fetchall()
        if self._tables() > made:
            self.counts.rows_written += ROWS_OF_A_NEW_TABLE
        elif cursor.rowcount > 0:
            self.counts.rows_written += cursor.rowcount * self._rows_each()
        return rows

    def write(self, rows: ObjectRows, batch: Batch, now: float) -> bool:
        """One transaction, as the edge makes it."""
        self._database.execute("BEGIN")
        try:
            written = rows.write(batch, now=now)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        return written

    def _tables(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])

    def _rows_each(self) -> int:
        """Of a document: itself and its indexes. The key of a table `WITHOUT ROWID` is the table."""
        indexes = self._database.execute("PRAGMA index_list(documents)").fetchall()
        made = self._database.execute("SELECT sql FROM sqlite_schema WHERE name = 'documents'").fetchone()[0]
        return len(indexes) + (0 if "WITHOUT ROWID" in made else 1)


class CountedDocuments:
    """The port `Documents`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.counts = Counts()
        self._now = now
        self._objects: dict[str, tuple[CountedObject, ObjectRows]] = {}

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        self.counts.reads += 1
        return self._asked(name)[1].read(read)

    async def write(self, name: str, batch: Batch) -> bool:
        self.counts.writes += 1
        kept, rows = self._asked(name)
        return kept.write(rows, batch, self._now())

    def written_at(self, name: str, key: str) -> float | None:
        return self._object(name)[1].written_at(key)

    def _asked(self, name: str) -> tuple[CountedObject, ObjectRows]:
        self.counts.of_routes += name.startswith("routes:")
        self.counts.of_owners += name.startswith("owner:")
        return self._object(name)

    def _object(self, name: str) -> tuple[CountedObject, ObjectRows]:
        if name not in self._objects:
            kept = CountedObject(self.counts)
            self._objects[name] = kept, ObjectRows(kept.execute)
        return self._objects[name]


class CountedEdge(CountedDocuments):
    """The same with what the edge does beside: it sets alarms, rings, and mirrors the jobs that have moved."""

    def __init__(self, now: Callable[[], float], tend_seconds: float) -> None:
        super().__init__(now)
        self._tend_seconds = tend_seconds
        self.alarms: dict[str, float] = {}

    async def write(self, name: str, batch: Batch) -> bool:
        written = await super().write(name, batch)
        if written:
            self.counts.bells += len(batch.rings)
            self._mirror(batch)
            self._look_by(name, batch)
        return written

    def alarm(self, name: str) -> list[str]:
        """The alarm of a session, when it is due. Returns the jobs that it rings for."""
        now, rows = self._now(), self._object(name)[1]
        self.counts.inner += 1
        del self.alarms[name]
        sight = sights.sight_of_all(rows)
        rung = looks.silent(sight, now=now)
        self.counts.bells += len(rung)
        self._set(name, looks.after_a_look(sight, now=now, tend_seconds=self._tend_seconds, chance=0.0))
        return rung

    def _look_by(self, name: str, batch: Batch) -> None:
        if sights.concerns_alarm(batch):
            sight = sights.sight_of_a_write(self._object(name)[1], batch)
            at = looks.after_a_write(sight, now=self._now(), tend_seconds=self._tend_seconds)
            if at is not None and at < self.alarms.get(name, math.inf):
                self._set(name, at)

    def _set(self, name: str, at: float | None) -> None:
        """A row."""
        if at is not None:
            self.alarms[name] = at
            self.counts.rows_written += 1

    def _mirror(self, batch: Batch) -> None:
        """It shows a job with its session, which it must read if it was not written."""
        moved = sights.moved_jobs(batch)
        self.counts.kv_writes += len(moved)
        self.counts.inner += len(moved) if codec.SESSION not in batch.put else 0
