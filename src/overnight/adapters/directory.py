"""Archives as files below one directory."""

import asyncio
import errno
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from overnight.archive.durable import fsync_directory, fsync_file, whole_file
from overnight.archive.names import check_name, check_prefix
from overnight.ports import ArchiveConflict, ArchiveMissing, Growth, ListedArchive, StoredArchive, whole
from overnight.threads import to_its_end

LEFT_SECONDS = 24 * 3600.0
"""What is half stored and older than this is a killed process's: no copy takes so long."""
_INCOMING = ".incoming"
_BLOCK = 1 << 20
_NO_HARD_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})
"""Another file system, or one without hard links: then bytes are copied."""


class DirectoryArchives:
    """One file per archive, and beside it `.<file>.sha256` in the format of `sha256sum`.

    An alias is a second (hard) link without such a record. What is not yet whole lies in `.incoming`.
    A cancelled call that writes has ended when it raises.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, name: str, source: Path, *, growth: Growth | None = None) -> StoredArchive:
        """The source is taken over: it is gone afterwards. A cancelled call has left nothing; or all of it, if it was
        about to return."""
        check_name(name)
        await whole(growth)
        return await to_its_end(lambda called_off: self._put(name, source, called_off))

    async def fetch(self, name: str, target: Path) -> StoredArchive:
        """Also raises OSError (EIO) if the bytes are no longer those that were put."""
        return await to_its_end(lambda called_off: self._fetch(check_name(name), target, called_off))

    async def part(self, name: str, *, start: int, length: int) -> bytes:
        return await asyncio.to_thread(self._part, check_name(name), start, length)

    async def publish(self, name: str, alias: str) -> None:
        await to_its_end(lambda called_off: self._publish(check_name(name), check_name(alias), called_off))

    async def delete(self, name: str) -> None:
        await to_its_end(lambda _: self._delete(check_name(name)))

    async def listing(self, prefix: str) -> Sequence[ListedArchive]:
        return await asyncio.to_thread(self._listing, check_prefix(prefix))

    async def sweep(self, now: float) -> None:
        """Delete what processes that were killed left half stored. `now` in Unix seconds."""
        await asyncio.to_thread(self._sweep, now - LEFT_SECONDS)

    def _put(self, name: str, source: Path, called_off: threading.Event) -> StoredArchive:
        with self._incoming() as incoming:
            _link_or_copy(source, incoming, called_off)
            fsync_file(incoming)
            size, sha256 = _measure(incoming, called_off)
            _go_on(called_off)
            self._claim(name, incoming, sha256)
        # Not before all is durable. And never kept: another name for the same bytes could change them.
        source.unlink(missing_ok=True)
        return StoredArchive(name=name, size=size, sha256=sha256)

    def _claim(self, name: str, incoming: Path, sha256: str) -> None:
        path = self._root / name
        if not self._take_name(path, incoming) and _measure(path)[1] != sha256:
            raise ArchiveConflict
        record = incoming.with_name("record")
        record.write_text(f"{sha256}  {path.name}\n", "ascii")
        fsync_file(record)
        record.replace(_record_of(path))
        self._sync(path.parent)

    def _take_name(self, path: Path, incoming: Path) -> bool:
        """Whether the name was free. A link, unlike a rename, never replaces anything."""
        while True:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                path.hardlink_to(incoming)
            except FileExistsError:
                return False
            except FileNotFoundError:
                if not incoming.exists():
                    raise
                continue  # `delete` has just removed the directory, which had become empty
            except OSError as error:
                if error.errno not in _NO_HARD_LINK:
                    raise
                if path.exists():
                    return False
                incoming.replace(path)
            return True

    def _fetch(self, name: str, target: Path, called_off: threading.Event) -> StoredArchive:
        path = self._root / name
        digest = hashlib.sha256()
        try:
            archive = path.open("rb")
        except FileNotFoundError:
            raise ArchiveMissing from None
        with archive, whole_file(target, durable=False) as copy:
            for block in _blocks(archive, called_off):
                digest.update(block)
                copy.write(block)
            size, sha256 = copy.tell(), digest.hexdigest()
            if _recorded(path) not in {None, sha256}:
                raise OSError(errno.EIO, "The archive no longer has the checksum it was stored with", name)
        return StoredArchive(name=name, size=size, sha256=sha256)

    def _part(self, name: str, start: int, length: int) -> bytes:
        try:
            with (self._root / name).open("rb") as archive:
                archive.seek(start)
                return archive.read(length)
        except FileNotFoundError:
            raise ArchiveMissing from None

    def _publish(self, name: str, alias: str, called_off: threading.Event) -> None:
        shown = self._root / alias
        with self._incoming() as incoming:
            try:
                _link_or_copy(self._root / name, incoming, called_off)
            except FileNotFoundError:
                raise ArchiveMissing from None
            fsync_file(incoming)
            shown.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _record_of(shown).unlink(missing_ok=True)
            incoming.replace(shown)
        self._sync(shown.parent)

    def _delete(self, name: str) -> None:
        path = self._root / name
        path.unlink(missing_ok=True)
        _record_of(path).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            fsync_directory(path.parent)
        with suppress(OSError):  # not empty, or already gone
            path.parent.rmdir()

    def _listing(self, prefix: str) -> list[ListedArchive]:
        found = (self._root / prefix.rpartition("/")[0]).rglob("[!.]*.zip")
        paths = {path.relative_to(self._root).as_posix(): path for path in found}
        return [*self._lines({name: paths[name] for name in sorted(paths) if name.startswith(prefix)})]

    def _lines(self, paths: Mapping[str, Path]) -> Iterator[ListedArchive]:
        for name, path in paths.items():
            with suppress(FileNotFoundError):  # deleted meanwhile
                status = path.stat()
                yield ListedArchive(name=name, size=status.st_size, stored_at=self._stored_at(path, status))

    def _stored_at(self, path: Path, status: os.stat_result) -> float:
        """When it was put: the bytes may be older than their name. An alias has no record of its own."""
        with suppress(FileNotFoundError):
            return _record_of(path).stat().st_mtime
        return status.st_ctime

    def _sweep(self, before: float) -> None:
        for left in (self._root / _INCOMING).glob("*"):
            with suppress(FileNotFoundError):  # stored meanwhile
                if left.lstat().st_mtime < before:
                    shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        """A free name on the store's file system; what is left under it is removed."""
        place = self._root / _INCOMING
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            yield Path(scratch) / "archive"

    def _sync(self, directory: Path) -> None:
        """Directories just made are names in their parents: all up to the one that holds the root."""
        fsync_directory(directory)
        while directory != self._root.parent:
            directory = directory.parent
            fsync_directory(directory)


def _record_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    try:
        return _record_of(path).read_text("ascii").split()[0]
    except FileNotFoundError:
        return None


def _go_on(called_off: threading.Event | None) -> None:
    if called_off is not None and called_off.is_set():
        raise InterruptedError("the archive is not wanted any more")


def _blocks(file: BinaryIO, called_off: threading.Event | None) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        _go_on(called_off)
        yield block


def _measure(path: Path, called_off: threading.Event | None = None) -> tuple[int, str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in _blocks(file, called_off):
            digest.update(block)
        return file.tell(), digest.hexdigest()


def _link_or_copy(source: Path, target: Path, called_off: threading.Event) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINK:
            raise
        with source.open("rb") as file, target.open("wb") as copy:
            copy.writelines(_blocks(file, called_off))
