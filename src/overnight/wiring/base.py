"""What a service and a worker share: the adapters of the data directory."""

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from overnight.adapters.memory import MemoryWakeups
from overnight.adapters.roster import FileRoster, worker_name
from overnight.adapters.sqlite.database import Database, open_database
from overnight.adapters.sqlite.history import SqliteHistory
from overnight.adapters.sqlite.index import SqliteIndex
from overnight.adapters.sqlite.keys import SqliteKeys
from overnight.adapters.sqlite.owners import SqliteOwners
from overnight.adapters.sqlite.queue import SqliteQueue
from overnight.adapters.sqlite.store import SqliteStore
from overnight.adapters.sqlite.wakeups import open_wakeups
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.archive import remove_tree
from overnight.domain.redaction import Redactor
from overnight.flows.keyring import KeyRing
from overnight.flows.limits import Budgets
from overnight.ports import ArchiveStore, JobHistory, JobIndex, JobStore, Owners, Queue, Wakeups
from overnight.settings import Settings
from overnight.wiring.archives import opened_archives
from overnight.wiring.claim import Ledger, claim
from overnight.wiring.cloudflare import edge_parts
from overnight.wiring.secrets import redactor_of


@dataclass(frozen=True, slots=True)
class Base:
    settings: Settings
    redactor: Redactor
    worker: str
    scratch: Path
    database: Database | None
    """None for a worker of an edge, which keeps the truth in its ledger."""
    store: JobStore
    index: JobIndex
    history: JobHistory | None
    """None where the ledger is the edge's, which forgets nothing before its session is erased."""
    owners: Owners
    budgets: Budgets
    queue: Queue
    wakeups: Wakeups
    archives: ArchiveStore
    roster: FileRoster
    clock: SystemClock
    entropy: SystemEntropy
    keys: KeyRing
    refused: Callable[[], Awaitable[str]] | None = None
    """Of a worker of an edge: waits until the edge refuses it, and says why."""


@contextlib.asynccontextmanager
async def opened_base(settings: Settings, redactor: Redactor | None) -> AsyncIterator[Base]:
    """Raises SettingsError, StorageError, OSError."""
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    claim(settings.data, Ledger.OWN)
    clock, entropy = SystemClock(), SystemEntropy()
    redactor = redactor or redactor_of(settings)
    async with (
        open_database(settings.data) as database,
        open_wakeups(database, MemoryWakeups(), entropy) as wakeups,
        opened_archives(settings) as archives,
    ):
        owners = SqliteOwners(database)
        keys = KeyRing(SqliteKeys(database), clock, learn=partial(redactor.learn, "webhook_secret"))
        await keys.refresh()
        with _enrolled(settings, entropy) as (worker, roster, scratch):
            yield Base(
                settings=settings,
                redactor=redactor,
                worker=worker,
                scratch=scratch,
                database=database,
                store=SqliteStore(database, wakeups, clock),
                index=SqliteIndex(database),
                history=SqliteHistory(database, wakeups),
                owners=owners,
                budgets=Budgets(owners, clock),
                queue=SqliteQueue(database, wakeups, clock, entropy),
                wakeups=wakeups,
                archives=archives,
                roster=roster,
                clock=clock,
                entropy=entropy,
                keys=keys,
            )


@contextlib.asynccontextmanager
async def opened_edge_base(settings: Settings, redactor: Redactor | None) -> AsyncIterator[Base]:
    """The same for a worker of an edge. Raises SettingsError, StorageError, OSError."""
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock, entropy = SystemClock(), SystemEntropy()
    redactor = redactor or redactor_of(settings)
    async with (
        edge_parts(settings, MemoryWakeups(), clock) as edge,
        opened_archives(settings) as archives,
    ):
        claim(settings.data, Ledger.EDGE)  # Not before the settings are known to be an edge's.
        keys = KeyRing(edge.keys, clock, learn=partial(redactor.learn, "webhook_secret"))
        await keys.refresh()
        with _enrolled(settings, entropy) as (worker, roster, scratch):
            yield Base(
                settings=settings,
                redactor=redactor,
                worker=worker,
                scratch=scratch,
                database=None,
                store=edge.store,
                index=edge.index,
                history=None,
                owners=edge.store,
                budgets=Budgets(edge.store, clock),
                queue=edge.queue,
                wakeups=edge.wakeups,
                archives=archives,
                roster=roster,
                clock=clock,
                entropy=entropy,
                keys=keys,
                refused=edge.refused,
            )


@contextlib.contextmanager
def _enrolled(settings: Settings, entropy: SystemEntropy) -> Iterator[tuple[str, FileRoster, Path]]:
    """This process's name, the roster that knows it, and its directory for files on their way."""
    host = socket.gethostname()
    worker = worker_name(host, os.getpid(), entropy.session_id()[:8])
    with contextlib.closing(FileRoster(settings.data, host)) as roster:
        roster.enroll(worker)
        with _scratch(settings.data / "scratch", worker, roster) as scratch:
            yield worker, roster, scratch


@contextlib.contextmanager
def _scratch(directory: Path, worker: str, roster: FileRoster) -> Iterator[Path]:
    """A directory for uploads and downloads on their way; those of dead processes are deleted."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for other in directory.iterdir():
        if roster.is_dead(other.name):
            remove_tree(other)
    own = directory / worker
    own.mkdir(mode=0o700)
    try:
        yield own
    finally:
        remove_tree(own)
