"""The documents of one object as rows of its SQLite.

What is paid for is rows written, so a document is one row: the table has no index beside itself, and a version is
counted per document. A row takes two million bytes at most (facts: cloudflare 4), so a larger document is several.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from overnight.adapters.cloudflare.documents import ABSENT, Batch, Document, Read, Span

Execute = Callable[..., Sequence[tuple[Any, ...]]]
"""Given a statement and its values, the rows that it answers with."""

PIECE_CHARACTERS = 475_000
"""Of a body in one row: 1.9 million bytes if each of them takes four."""

TABLE = (
    "CREATE TABLE IF NOT EXISTS documents (key TEXT NOT NULL, piece INTEGER NOT NULL, pieces INTEGER NOT NULL, "
    "version INTEGER NOT NULL, at REAL NOT NULL, body TEXT NOT NULL, PRIMARY KEY (key, piece)) WITHOUT ROWID"
)
FLOOR = ""
"""The key of the row that remembers the highest version of what was deleted: versions never come back."""
HEAD = "SELECT version, pieces, at FROM documents WHERE key = ? AND piece = 0"
GET = "SELECT key, version, pieces, body FROM documents WHERE key = ? AND piece = 0"
SIZES = (
    "SELECT pieces * length(body) FROM documents WHERE key > ? AND key < ? AND piece = 0 ORDER BY key LIMIT ?"
)
SPAN = "SELECT key, version, pieces, body FROM documents WHERE key > ? AND key < ? AND piece = 0 ORDER BY key LIMIT ?"
KEYS = (
    "SELECT key, version, 1, '' FROM documents WHERE key > ? AND key < ? AND piece = 0 ORDER BY key LIMIT ?"
)
HAVING = "SELECT version, body FROM documents WHERE key > ? AND key < ? AND instr(body, ?) AND pieces = 1"
REST = "SELECT body FROM documents WHERE key = ? AND piece > 0 ORDER BY piece"
PUT = "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?)"
SHORTEN = "DELETE FROM documents WHERE key = ? AND piece >= ?"
HIGHEST = "SELECT max(version) FROM documents"
LAST = "\U0010ffff"


class ObjectRows:
    """`execute` runs one statement on the object's database. Whoever calls `write` makes a transaction of it."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._execute(TABLE)

    def read(self, read: Read) -> dict[str, Document]:
        rows = [row for key in read.keys for row in self._execute(GET, key)]
        for span in read.spans:
            rows += self._span(span)
        return {key: Document(version, self._whole(key, pieces, body)) for key, version, pieces, body in rows}

    def having(self, prefix: str, words: str) -> list[Document]:
        """Documents whose keys begin so and whose bodies hold these words, of those that are one row."""
        rows = self._execute(HAVING, prefix, prefix + LAST, words)
        return [Document(version, body) for version, body in rows]

    def written_at(self, key: str) -> float | None:
        """When the document was last put, by the object's clock; None if it is not there."""
        rows = self._execute(HEAD, key)
        return float(rows[0][2]) if rows else None

    def write(self, batch: Batch, *, now: float) -> bool:
        """False, and nothing is written, if a version is not the expected one."""
        if any(self._head(key)[0] != version for key, version in batch.expect.items()):
            return False
        if batch.wipe:
            self._wipe(now)
        gone = max((self._head(key)[0] for key in batch.delete), default=ABSENT)
        for key in batch.delete:
            self._shorten(key, 0)
        self._raise_floor(gone, now)
        for key, body in batch.put.items():
            self._put(key, body, now)
        return True

    def _put(self, key: str, body: str, now: float) -> None:
        version, had = self._head(key)
        version = 1 + (version or self._head(FLOOR)[0])
        pieces = [body[at : at + PIECE_CHARACTERS] for at in range(0, len(body), PIECE_CHARACTERS)] or [""]
        for number, piece in enumerate(pieces):
            self._execute(PUT, key, number, len(pieces), version, now, piece)
        if len(pieces) < had:
            self._shorten(key, len(pieces))

    def _wipe(self, now: float) -> None:
        highest = self._execute(HIGHEST)[0][0] or ABSENT
        self._execute("DELETE FROM documents")
        self._raise_floor(highest, now)

    def _raise_floor(self, version: int, now: float) -> None:
        if version > self._head(FLOOR)[0]:
            self._execute(PUT, FLOOR, 0, 1, version, now, "")

    def _shorten(self, key: str, pieces: int) -> None:
        self._execute(SHORTEN, key, pieces)

    def _head(self, key: str) -> tuple[int, int]:
        """Version and number of pieces."""
        rows = self._execute(HEAD, key)
        return (rows[0][0], rows[0][1]) if rows else (ABSENT, 0)

    def _span(self, span: Span) -> Sequence[tuple[Any, ...]]:
        within, limit = (max(span.prefix, span.after), span.prefix + LAST), span.limit
        if span.most_characters:
            sizes = accumulate(row[0] for row in self._execute(SIZES, *within, limit))
            limit = max(1, sum(size <= span.most_characters for size in sizes))
        return self._execute(SPAN if span.bodies else KEYS, *within, limit)

    def _whole(self, key: str, pieces: int, body: str) -> str:
        if pieces == 1:
            return body
        return body + "".join(row[0] for row in self._execute(REST, key))
