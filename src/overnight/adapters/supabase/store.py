"""Archives in a bucket of Supabase Storage.

Every archive is uploaded under a key of its own and then moved to its name: the storage's creates are not
atomic, a move is (docs/decisions/0060).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from overnight.adapters.supabase.access import INCOMING, Access
from overnight.adapters.supabase.canary import Canary
from overnight.adapters.supabase.connection import Connection, connected
from overnight.adapters.supabase.download import Download
from overnight.adapters.supabase.faults import Fault, StorageFault
from overnight.adapters.supabase.notes import prepare
from overnight.adapters.supabase.objects import Objects
from overnight.adapters.supabase.patience import Patience, Unreachable
from overnight.adapters.supabase.resumable import Offer, Resumable
from overnight.adapters.supabase.source import Source, opened
from overnight.adapters.supabase.upload import Upload
from overnight.archive.names import check_name
from overnight.ports import (
    ArchiveConflict,
    ArchiveDenied,
    ArchiveMissing,
    ArchiveTooLarge,
    Clock,
    Entropy,
    Growth,
    ListedArchive,
    StoredArchive,
)

log = logging.getLogger(__name__)

LEFT_SECONDS = 48 * 3600.0
"""An upload without a name that is older than this is a dead worker's: none lasts longer than a day."""


class SupabaseArchives:
    """`notes` is a directory of this machine in which uploads under way are noted."""

    def __init__(self, connection: Connection, offer: Offer, notes: Path) -> None:
        self._connection = connection
        self._access = connection.access
        self._objects = Objects(connection)
        self._download = Download(connection)
        self._offer = offer
        self._notes = notes

    @property
    def largest(self) -> int | None:
        """Bytes of the largest archive that the project takes, as far as it says."""
        return self._offer.largest

    async def put(self, name: str, source: Path, *, growth: Growth | None = None) -> StoredArchive:
        """The source stays. Also raises ArchiveDenied."""
        key = self._access.key_of(name)
        with self._explained(source), opened(source) as file:
            upload = Upload(self._connection, self._offer, self._notes, file)
            async with upload.towards(key, growth) as (incoming, size):
                await self._claim(incoming, key, file, size)
            return StoredArchive(name=name, size=size, sha256=await file.sha256(size))

    async def fetch(self, name: str, target: Path) -> StoredArchive:
        """Also raises ArchiveDenied, and OSError (EIO) if the bytes are no longer those that were put."""
        key = self._access.key_of(name)
        async with self._surely_missing():
            size, sha256 = await self._download.to(key, target)
        return StoredArchive(name=name, size=size, sha256=sha256)

    async def part(self, name: str, *, start: int, length: int) -> bytes:
        """Also raises ArchiveDenied."""
        key = self._access.key_of(name)
        async with self._surely_missing():
            return await self._download.part(key, start, length)

    async def publish(self, name: str, alias: str) -> None:
        key, shown = self._access.key_of(name), self._access.key_of(alias)
        async with self._surely_missing():
            await self._objects.copy(key, shown)

    async def delete(self, name: str) -> None:
        key = self._access.key_of(name)
        with self._explained():
            removed = await self._objects.remove(key)
            if not await self._objects.in_folder(key):
                return
        if removed:
            raise Unreachable("Supabase Storage still lists an archive that it says it has deleted.")
        raise ArchiveDenied(
            "Supabase Storage does not let this key delete: the archive is still there. " + _SQL
        )

    async def listing(self, prefix: str) -> Sequence[ListedArchive]:
        folder = self._access.folder_of(prefix)
        if folder is None:
            return []
        beginning = prefix.rpartition("/")[2] if "/" in prefix else ""
        with self._explained():
            rows = [row async for row in self._objects.walk(folder, beginning)]
        listed = (
            ListedArchive(name=self._access.name_of(row.key), size=row.size, stored_at=row.updated_at)
            for row in rows
        )
        ours = (archive for archive in listed if archive.name.startswith(prefix) and _is_name(archive.name))
        return sorted(ours, key=lambda archive: archive.name)

    async def check(self) -> None:
        """Try all that the store needs. Raises ArchiveDenied, Unreachable."""
        await Canary(self._connection).sing()

    async def sweep(self, now: float) -> None:
        """Delete what dead workers left half uploaded. Raises OSError."""
        with self._explained():
            async for row in self._objects.walk(f"{self._access.prefix}/{INCOMING}"):
                if row.updated_at < now - LEFT_SECONDS:
                    await self._objects.remove(row.key)

    async def _claim(self, incoming: str, key: str, file: Source, size: int) -> None:
        try:
            await self._objects.move(incoming, key)
        except StorageFault as error:
            # MISSING: an earlier try of this very move may have succeeded, and its answer was lost.
            if error.fault not in {Fault.TAKEN, Fault.MISSING}:
                raise
        else:
            return
        ours = await self._holds(key, file, size)
        with contextlib.suppress(StorageFault, OSError):  # swept later
            await self._objects.remove(incoming)
        if not ours:
            raise ArchiveConflict

    async def _holds(self, key: str, file: Source, size: int) -> bool:
        """Whether the object has the bytes of the file."""
        info = await self._objects.find(key)
        if info is None:
            raise Unreachable("Supabase Storage has lost an archive on the way to its name.")
        if info.size != size:
            return False
        if info.md5 is not None:
            return info.md5 == await file.md5(size)
        stored = info.sha256 or await self._download.sha256(key)
        return stored == await file.sha256(size)

    @asynccontextmanager
    async def _surely_missing(self) -> AsyncIterator[None]:
        """A key without the right to read gets the same answer as one for nothing: then tell by trying."""
        try:
            with self._explained():
                yield
        except ArchiveMissing:
            await self.check()
            raise

    @contextmanager
    def _explained(self, source: Path | None = None) -> Iterator[None]:
        try:
            yield
        except StorageFault as error:
            raise self._as_port_has_it(error, source) from None

    def _as_port_has_it(self, error: StorageFault, source: Path | None) -> Exception:
        match error.fault:
            case Fault.MISSING:
                return ArchiveMissing()
            case Fault.TOO_LARGE:
                sent = source.stat().st_size - 1 if source is not None else 0
                return ArchiveTooLarge(min(sent, self._offer.largest or sent))
            case _:
                return ArchiveDenied(f"Supabase Storage refused ({error.code}). {_SQL}")


@asynccontextmanager
async def supabase_archives(
    access: Access, *, notes: Path, clock: Clock, entropy: Entropy, patience: Patience | None = None
) -> AsyncIterator[SupabaseArchives]:
    """Connected, and not yet checked. Raises OSError if the project does not answer."""
    await asyncio.to_thread(prepare, notes, clock.now())
    patience = patience or Patience(entropy.chance)
    async with connected(access, patience, entropy.session_id) as connection:
        try:
            offer = await Resumable(connection).offer()
        except StorageFault as error:
            raise ArchiveDenied(
                f"{access.url} is no Supabase project ({error.code}). Check SUPABASE_URL."
            ) from None
        yield SupabaseArchives(connection, offer, notes)


def _is_name(text: str) -> bool:
    try:
        return bool(check_name(text))
    except ValueError:
        return False


_SQL = "Check the key and its rights: `overnight doctor` tries them one by one, and prints the SQL that gives them."
