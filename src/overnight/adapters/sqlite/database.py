"""The file `overnight.db`: one connection that writes, a few that read, and how they are opened and closed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import apsw

from overnight.adapters.sqlite.schema import migrate
from overnight.adapters.sqlite.turn import Turn
from overnight.adapters.sqlite.writer import Write, Writer
from overnight.ports import StorageError, StorageFailed

READERS = 3
BUSY_MILLISECONDS = 10_000
"""Only a program that does not take turns (the sqlite3 shell, say) can make us wait for so long."""
LARGEST_WAL_BYTES = 64 * 1024 * 1024

T = TypeVar("T")


class Database:
    """Made by `open_database`. Belongs to the event loop that opened it."""

    def __init__(self, data_dir: Path, writer: Writer, readers: list[apsw.Connection]) -> None:
        self.data_dir = data_dir
        self._writer = writer
        self._readers = readers
        self._idle: SimpleQueue[apsw.Connection] = SimpleQueue()
        for reader in readers:
            self._idle.put(reader)
        self._threads = ThreadPoolExecutor(len(readers), thread_name_prefix="sqlite-reader")
        self._closed = False

    @property
    def commits(self) -> int:
        """Transactions of this process that wrote something."""
        return self._writer.commits

    async def failed(self) -> None:
        """Returns when the disk has failed. The service should then stop, and exit with an error."""
        await self._writer.failed.wait()

    async def write(
        self, work: Callable[[apsw.Connection], T], *, committed: Callable[[T], None] | None = None
    ) -> T:
        """Run `work` in a transaction, together with other writes that wait; durable on return.

        What `work` raises undoes its own writes only, and is raised here. `committed` is called on the loop
        with what `work` returned, also if this call was cancelled meanwhile. Raises StorageError.
        """
        if self._closed:
            raise StorageFailed("the database is closed: nothing was written")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.submit(Write(work, future, committed))
        return await future

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Run `query` on one consistent view. Keep it short: while it lasts, the log cannot be reset.

        Raises StorageError.
        """
        if self._closed:
            raise StorageError("the database is closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._query, query)

    def _query(self, query: Callable[[apsw.Connection], T]) -> T:
        reader = self._idle.get()
        try:
            return _on_one_view(reader, query)
        except apsw.Error as error:
            raise StorageError("the database could not be read") from error
        finally:
            self._idle.put(reader)

    async def aclose(self) -> None:
        """Commit what waits, then close. Idempotent."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown()
        for reader in self._readers:
            reader.close()
        self._writer.stop()


def _on_one_view(reader: apsw.Connection, query: Callable[[apsw.Connection], T]) -> T:
    reader.execute("BEGIN")
    try:
        return query(reader)
    finally:
        reader.execute("END")


@asynccontextmanager
async def open_database(data_dir: Path, *, vfs: str | None = None) -> AsyncIterator[Database]:
    """Open the database of a data directory, making both if need be. Call it after any fork.

    `vfs` names another SQLite file layer; tests use one that fails. Raises SchemaTooNew, OSError.
    """
    turn, writing, readers = await asyncio.to_thread(_open, data_dir, vfs)
    database = Database(data_dir, Writer(writing, turn, asyncio.get_running_loop()), readers)
    try:
        yield database
    finally:
        await database.aclose()
        turn.close()


def _open(data_dir: Path, vfs: str | None) -> tuple[Turn, apsw.Connection, list[apsw.Connection]]:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / "overnight.db"
    turn = Turn(data_dir / "overnight.db.turn")
    opened: list[apsw.Connection] = []
    try:
        with turn.held():
            writing = _connect(path, vfs, opened)
            migrate(writing)
        readers = [_reader(path, vfs, opened) for _ in range(READERS)]
    except BaseException:  # a cancel too: what was opened is closed
        for connection in opened:
            connection.close()
        turn.close()
        raise
    return turn, writing, readers


def _connect(path: Path, vfs: str | None, opened: list[apsw.Connection]) -> apsw.Connection:
    """`wal_autocheckpoint` and NO_CKPT_ON_CLOSE are the checkpoint rule: only the writer does it, in its turn."""
    connection = apsw.Connection(str(path), vfs=vfs)
    opened.append(connection)
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("journal_size_limit", LARGEST_WAL_BYTES)
    connection.wal_autocheckpoint(0)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def _reader(path: Path, vfs: str | None, opened: list[apsw.Connection]) -> apsw.Connection:
    connection = _connect(path, vfs, opened)
    connection.pragma("query_only", True)
    return connection
