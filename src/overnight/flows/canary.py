"""One small archive written, listed, read and deleted: whether a store can be used, before a job needs it."""

import asyncio
import errno
import tempfile
from pathlib import Path

from overnight.archive import remove_tree
from overnight.domain.archive_names import archives_of
from overnight.ports import ArchiveConflict, ArchiveMissing, ArchiveStore, Entropy


async def try_store(archives: ArchiveStore, entropy: Entropy) -> None:
    """Raises OSError if the store does not keep what ArchiveStore promises; ArchiveDenied says what to do."""
    scratch = Path(await asyncio.to_thread(tempfile.mkdtemp))
    try:
        await _try(archives, f"{archives_of('canary')}{entropy.job_id()}.zip", scratch)
    finally:
        await asyncio.to_thread(remove_tree, scratch)


async def _try(archives: ArchiveStore, name: str, scratch: Path) -> None:
    try:
        put = await archives.put(name, await _file(scratch, b"overnight"))
        if await archives.fetch(name, scratch / "fetched") != put:
            raise OSError(errno.EIO, "The archive store gives back other bytes than it was given")
        if name not in {archive.name for archive in await archives.listing(name.removesuffix(".zip"))}:
            raise OSError(errno.EIO, "The archive store does not list what it holds")
        await _try_to_overwrite(archives, name, scratch)
    except ArchiveMissing:
        raise OSError(errno.EIO, "The archive store has lost what was just written to it") from None
    finally:
        await archives.delete(name)


async def _try_to_overwrite(archives: ArchiveStore, name: str, scratch: Path) -> None:
    try:
        await archives.put(name, await _file(scratch, b"something else"))
    except ArchiveConflict:
        return
    raise OSError(errno.EIO, "The archive store lets an archive be overwritten")


async def _file(scratch: Path, content: bytes) -> Path:
    path = scratch / "canary.zip"
    await asyncio.to_thread(path.write_bytes, content)
    return path
