"""The one thread that writes: it puts what waits into one transaction, so that all share one fsync.

Group commit is what pays for durability: 64 waiters get 30 times the commits of one commit each (facts: queue
1 and 3.1).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

import apsw

from overnight.adapters.sqlite.turn import Turn
from overnight.ports import StorageBusy, StorageError, StorageFailed, StorageFull

BATCH = 512
GATHER_SECONDS = 0.002
GATHER_STEP_SECONDS = 0.0002
CHECKPOINT_PAGES = 1000

_FULL = "the disk is full: nothing was written. Make room, then send the request again"
_BUSY = "another program holds the database: nothing was written. Send the request again"
_FAILED = (
    "the disk failed, so it is not known whether this was written, and nothing more is taken. "
    "Check the disk, start the service again, and repeat the request with the same idempotency key"
)

_OWN_FAULT = (
    apsw.ConstraintError,
    apsw.SQLError,
    apsw.MismatchError,
    apsw.RangeError,
    apsw.TooBigError,
    apsw.BindingsError,
)
"""SQLite errors of one write alone. After any other one SQLite may have rolled the whole transaction back."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Write(Generic[T]):
    """One piece of a transaction, and who waits for it. `committed` is called on the loop, after the commit."""

    work: Callable[[apsw.Connection], T]
    future: asyncio.Future[T]
    committed: Callable[[T], None] | None
    value: T | None = None
    error: Exception | None = None


class Writer:
    """Owns the writing connection until `stop`. `commits` counts transactions that wrote something."""

    def __init__(self, connection: apsw.Connection, turn: Turn, loop: asyncio.AbstractEventLoop) -> None:
        self.commits = 0
        self.failed = asyncio.Event()
        self._failure: Exception | None = None
        self._connection = connection
        self._turn = turn
        self._loop = loop
        self._waiting: SimpleQueue[Write[Any] | None] = SimpleQueue()
        self._stopping = False
        self._wal_pages = 0
        self._checkpointed_pages = 0
        connection.set_wal_hook(self._count_commit)  # also turns SQLite's own checkpoints off
        self._thread = Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._thread.start()

    def submit(self, write: Write[Any]) -> None:
        self._waiting.put(write)

    def stop(self) -> None:
        """Commit what waits, move it into the database file, close. Blocks."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            batch = self._gather()
            if batch:
                self._serve(batch)
        self._close()

    def _gather(self) -> list[Write[Any]]:
        """Wait for a write and take the others that wait. Wait for more only while more come."""
        batch: list[Write[Any]] = []
        self._take(batch, self._waiting.get())
        until = time.monotonic() + GATHER_SECONDS
        while self._drain(batch) and time.monotonic() < until:
            time.sleep(GATHER_STEP_SECONDS)
        return batch

    def _drain(self, batch: list[Write[Any]]) -> bool:
        """Take what waits at this moment; False if the batch did not grow or may not grow further."""
        before = len(batch)
        with suppress(Empty):
            while len(batch) < BATCH and not self._stopping:
                self._take(batch, self._waiting.get_nowait())
        return before < len(batch) < BATCH and not self._stopping

    def _take(self, batch: list[Write[Any]], write: Write[Any] | None) -> None:
        if write is None:
            self._stopping = True
        else:
            batch.append(write)

    def _serve(self, batch: list[Write[Any]]) -> None:
        if self._failure is not None:
            self._refuse(batch, StorageFailed, _FAILED)
            return
        try:
            with self._turn.held():
                self._commit(batch)
                self._answer(batch)
                self._checkpoint_when_due()
        except apsw.FullError:
            self._give_up(batch, StorageFull, _FULL)
        except apsw.BusyError:
            self._give_up(batch, StorageBusy, _BUSY)
        # Whatever else it is, retrying could "succeed" on pages that the kernel has dropped (facts: queue 3.6).
        except Exception as error:  # noqa: BLE001 - the thread must live on to answer those who wait
            self._fail(batch, error)

    def _commit(self, batch: list[Write[Any]]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        for write in batch:
            self._attempt(write)
        self._connection.execute("COMMIT")

    def _attempt(self, write: Write[Any]) -> None:
        """A refusal undoes its own write alone; the rest of the batch goes on."""
        self._connection.execute("SAVEPOINT one")
        try:
            write.value = write.work(self._connection)
        except Exception as error:  # a rule's refusal or a bug: either goes to the caller of this write
            if isinstance(error, apsw.Error) and not isinstance(error, _OWN_FAULT):
                raise
            write.error = error
            self._connection.execute("ROLLBACK TO one")
        self._connection.execute("RELEASE one")

    def _answer(self, batch: list[Write[Any]]) -> None:
        """One call into the loop for the whole batch: its wake-ups would cost more than the commit."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, batch)

    def _give_up(self, batch: list[Write[Any]], kind: type[StorageError], message: str) -> None:
        """Nothing of the batch is in the file. A checkpoint that fails so has changed nothing: its batch stands."""
        if self._connection.in_transaction:
            with suppress(apsw.Error):
                self._connection.execute("ROLLBACK")
        self._refuse(batch, kind, message)

    def _fail(self, batch: list[Write[Any]], error: Exception) -> None:
        logger.critical("the database failed and takes no further writes: %s", type(error).__name__)
        self._failure = error
        self._give_up(batch, StorageFailed, _FAILED)
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.failed.set)

    def _refuse(self, batch: list[Write[Any]], kind: type[StorageError], message: str) -> None:
        """Those who were answered already (a checkpoint failed after their commit) keep their answer."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_settle_refused, batch, kind, message)

    def _count_commit(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.commits += 1
        self._wal_pages = pages
        if pages < self._checkpointed_pages:
            self._checkpointed_pages = 0  # the log began anew
        return apsw.SQLITE_OK

    def _checkpoint_when_due(self) -> None:
        """The checkpoint rule (facts: queue 3.5): only here, between transactions, inside the turn."""
        if self._wal_pages - self._checkpointed_pages >= CHECKPOINT_PAGES:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._checkpointed_pages = self._wal_pages

    def _close(self) -> None:
        with suppress(apsw.Error), self._turn.held():
            if self._failure is None:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._connection.close()


def _settle(batch: list[Write[Any]]) -> None:
    for write in batch:
        if write.future.done():  # cancelled
            continue
        if write.error is None:
            write.future.set_result(write.value)
        else:
            write.future.set_exception(write.error)
    for write in batch:
        if write.error is None and write.committed is not None:
            write.committed(write.value)


def _settle_refused(batch: list[Write[Any]], kind: type[StorageError], message: str) -> None:
    for write in batch:
        if not write.future.done():
            write.future.set_exception(kind(message))
