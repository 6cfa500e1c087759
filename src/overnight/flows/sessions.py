"""A session as its owner sees it: start one from a zip, look into its archive, erase it."""

import asyncio
import errno
import hashlib
import logging
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from overnight.archive import (
    EntryContent,
    Listing,
    Place,
    Profile,
    inspect,
    inspect_end,
    locate,
    read_place,
    remove_tree,
)
from overnight.domain.archive_names import alias_name, archives_of, upload_name
from overnight.domain.errors import Refused, SessionBusy, SessionExists, SessionNotFound
from overnight.domain.job import ArchiveRef, Origin, Session
from overnight.domain.keys import Caller
from overnight.flows.kept_here import KeptHere
from overnight.ports import ArchiveMissing, ArchiveStore, Clock, Entropy, JobStore, StorageFull

LAST_BYTES = 256 * 1024
"""Of an archive: the directory of some two thousand files is in them, and a longer one needs a second look."""

PIECE = 4 << 20
"""Bytes of an archive that are asked for at a time, and held in memory."""

log = logging.getLogger(__name__)

T = TypeVar("T", Listing, Place)


async def start_from(
    source: Path,
    session_id: str,
    *,
    owner: str,
    profile: Profile,
    store: JobStore,
    archives: ArchiveStore,
    clock: Clock,
    entropy: Entropy,
) -> Session:
    """Make a stranger's zip the first archive of a new session. `source` may be moved.

    Raises ArchiveRefused, SessionExists, SessionBusy, OSError; then nothing is kept.
    """
    await asyncio.to_thread(inspect, source, profile=profile)
    name = upload_name(session_id, entropy.job_id())
    stored = await archives.put(name, source)
    archive = ArchiveRef(name=name, size=stored.size, sha256=stored.sha256, origin=Origin.UPLOAD)
    now = clock.now()

    def begin(session: Session | None) -> Session:
        if session is not None:
            raise SessionExists("the session is there already")
        return Session(session_id=session_id, created_at=now, updated_at=now, archive=archive, owner=owner)

    try:
        session = await store.change_session(session_id, begin)
    except Refused:  # only then is it sure that nothing points at the archive
        await archives.delete(name)
        raise
    try:
        await archives.publish(name, alias_name(session_id))
    except ArchiveMissing:  # an erasure that was under way took it
        await store.erase(session_id)
        raise SessionBusy("the session is being erased") from None
    except OSError:  # The session is there: the alias is a convenience, and its first job publishes it again.
        log.exception("could not publish the archive of session %s", session_id)
    return session


async def listed(archive: ArchiveRef, *, archives: ArchiveStore) -> Listing:
    """What the archive holds, by the directory at its end: that is all that is fetched of it.

    Raises ArchiveMissing, ArchiveRefused, OSError.
    """
    return await _by_end(archive, lambda end: inspect_end(end, archive.size), archives=archives)


async def opened(
    archive: ArchiveRef, name: str, *, archives: ArchiveStore, scratch: Path, room: int
) -> EntryContent:
    """One regular file of the archive. The directory and that file are all that is fetched of it; the file, as it is
    compressed, is kept below `scratch` until it is read, in `room` bytes at most.

    Raises ArchiveMissing, EntryMissing, ArchiveRefused, StorageFull, OSError.
    """
    place = await _by_end(archive, lambda end: locate(end, archive.size, name), archives=archives)
    if place.end - place.start > room:
        raise StorageFull("there is no room for a copy of the file")
    async with scratch_file(scratch) as path:
        with await asyncio.to_thread(path.open, "wb") as copy:
            async with aclosing(stretch(archive, place.start, place.end, archives=archives)) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(copy.write, piece)
        return await asyncio.to_thread(read_place, path, place)


async def entire(archive: ArchiveRef, *, archives: ArchiveStore) -> AsyncGenerator[bytes, None]:
    """All its bytes, a piece at a time, straight from the store: a copy would hold the disk for as long as a slow
    client reads. The last piece comes only if all are what was stored.

    Raises ArchiveMissing, OSError.
    """
    digest, held = hashlib.sha256(), b""
    async with aclosing(stretch(archive, 0, archive.size, archives=archives)) as pieces:
        async for piece in pieces:
            if held:
                yield held
            held = piece
            await asyncio.to_thread(digest.update, held)
    if digest.hexdigest() != archive.sha256:
        raise OSError(errno.EIO, "The archive no longer has the checksum it was stored with", archive.name)
    yield held


async def stretch(
    archive: ArchiveRef, start: int, end: int, *, archives: ArchiveStore
) -> AsyncGenerator[bytes, None]:
    """The bytes [start, end) of the archive, a piece at a time. Not checked: the whole is, by its SHA-256.

    Raises ArchiveMissing, OSError.
    """
    while start < end:
        length = min(PIECE, end - start)
        yield await _part(archive, start, length, archives)
        start += length


async def _by_end(archive: ArchiveRef, look: Callable[[bytes], T | int], *, archives: ArchiveStore) -> T:
    """What `look` finds in the archive's last bytes, as many of them as it needs."""
    start = max(archive.size - LAST_BYTES, 0)
    while True:
        end = await _part(archive, start, archive.size - start, archives)
        found = await asyncio.to_thread(look, end)
        if not isinstance(found, int):
            return found
        start = found


async def _part(archive: ArchiveRef, start: int, length: int, archives: ArchiveStore) -> bytes:
    part = await archives.part(archive.name, start=start, length=length)
    if len(part) != length:
        raise OSError(errno.EIO, "The archive in the store is not as long as it was", archive.name)
    return part


@asynccontextmanager
async def scratch_file(scratch: Path) -> AsyncIterator[Path]:
    """A path in a directory of its own; both are gone afterwards."""
    directory = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=scratch))
    try:
        yield directory / "archive.zip"
    finally:
        await asyncio.to_thread(remove_tree, directory)


async def erase(
    session_id: str,
    *,
    caller: Caller,
    store: JobStore,
    archives: ArchiveStore,
    kept: KeptHere,
    clock: Clock,
) -> bool:
    """Delete all that there is of a session: marked first, so that a crash on the way is made good later.

    False if a part could not be deleted yet: nobody can see the session any more, and the housekeeping goes on
    until nothing is left. Raises SessionNotFound, SessionBusy.
    """
    now = clock.now()

    def mark(session: Session | None) -> Session:
        if session is None or not caller.sees(session.owner):
            raise SessionNotFound("no such session")
        if session.line:
            raise SessionBusy("jobs of the session are still open")
        return session if session.erased_at is not None else replace(session, erased_at=now)

    await store.change_session(session_id, mark)
    try:
        await finish_erasing(session_id, store=store, archives=archives, kept=kept)
    except OSError:
        log.exception("session %s is marked as erased, but not all of it could be deleted yet", session_id)
        return False
    return True


async def finish_erasing(session_id: str, *, store: JobStore, archives: ArchiveStore, kept: KeptHere) -> None:
    """The rest of `erase` for a session that bears the mark, the rows last. Idempotent. Raises OSError."""
    await kept.delete(session_id)
    for archive in await archives.listing(archives_of(session_id)):
        await archives.delete(archive.name)
    await archives.delete(alias_name(session_id))
    await store.erase(session_id)
