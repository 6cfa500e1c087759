"""A session as its owner sees it: start one from a zip, look into its archive, erase it."""

import asyncio
import errno
import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from overnight.archive import Listing, Profile, inspect, inspect_end, remove_tree
from overnight.domain.archive_names import alias_name, archives_of, upload_name
from overnight.domain.errors import Refused, SessionBusy, SessionExists, SessionNotFound
from overnight.domain.job import ArchiveRef, Origin, Session
from overnight.domain.keys import Caller
from overnight.flows.kept_here import KeptHere
from overnight.ports import ArchiveMissing, ArchiveStore, Clock, Entropy, JobStore

LAST_BYTES = 256 * 1024
"""Of an archive: the directory of some two thousand files is in them, and a longer one needs a second look."""

log = logging.getLogger(__name__)


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


@asynccontextmanager
async def fetched(archive: ArchiveRef, *, archives: ArchiveStore, scratch: Path) -> AsyncIterator[Path]:
    """A copy of the archive that is gone afterwards. Raises ArchiveMissing, OSError."""
    async with scratch_file(scratch) as target:
        await archives.fetch(archive.name, target)
        yield target


async def listed(archive: ArchiveRef, *, archives: ArchiveStore) -> Listing:
    """What the archive holds, by the directory at its end: that is all that is fetched of it.

    Raises ArchiveMissing, ArchiveRefused, OSError.
    """
    start, found = max(archive.size - LAST_BYTES, 0), None
    while not isinstance(found, Listing):
        end = await archives.end(archive.name, start=start)
        if len(end) != archive.size - start:
            raise OSError(errno.EIO, "The archive in the store is not as long as it was", archive.name)
        found = await asyncio.to_thread(inspect_end, end, archive.size)
        start = found if isinstance(found, int) else start
    return found


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
