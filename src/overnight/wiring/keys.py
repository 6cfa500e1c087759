"""The keys alone, for the commands that make and revoke them."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from overnight.adapters.sqlite.database import open_database
from overnight.adapters.sqlite.keys import SqliteKeys
from overnight.adapters.system import SystemClock
from overnight.settings import Settings


@dataclass(frozen=True, slots=True)
class OpenedKeys:
    store: SqliteKeys
    clock: SystemClock


@contextlib.asynccontextmanager
async def opened_keys(settings: Settings) -> AsyncIterator[OpenedKeys]:
    """The keys of the data directory, whether a service runs on it or not. Raises StorageError, OSError."""
    async with open_database(settings.data) as database:
        yield OpenedKeys(SqliteKeys(database), SystemClock())
