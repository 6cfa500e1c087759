"""Writes one part of an archive: always from an open directory, and never through a link."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from overnight.archive.model import ArchiveRefused, Kind, Refusal
from overnight.archive.owners import Owner
from overnight.archive.reader import ArchiveFile, Record, Window
from overnight.archive.record import status_of
from overnight.archive.spans import STEP, Span, content, is_small, whole
from overnight.archive.walk import OPEN_DIRECTORY

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CANNOT_HOLD = frozenset({errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ})


@dataclass(frozen=True, slots=True)
class Manner:
    """`plain_modes` and no others for a stranger's; `fresh_times` leaves the time of writing.

    The status of each entry, once nothing of it changes any more, is put into `statuses` if there is one.
    """

    plain_modes: bool
    fresh_times: bool
    owner: Owner | None
    statuses: dict[bytes, bytes] | None = None


class Restore:
    """Call `close` in the end: one descriptor is open per level."""

    def __init__(self, root: Path, archive: ArchiveFile, manner: Manner, prefix: str) -> None:
        self._prefix = f"{prefix}/" if prefix else ""
        self._archive = archive
        self._ahead = Window(archive, 2 * STEP)
        self._manner = manner
        self._open: list[tuple[str, int]] = [("", os.open(root, OPEN_DIRECTORY))]
        self._here = ""
        self._made: dict[str, Record | None] = {}

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def run(self, share: list[Span], targets: Mapping[str, bytes]) -> None:
        """All entries must be below the prefix.

        Links come after all files and before the modes of directories, which may forbid writing. The root
        changes hands last: until then a new owner cannot reach in and move things about.
        """
        links = []
        for span in share:
            kind = span.record.kind
            if kind is Kind.FILE:
                self._write_file(span)
            elif kind is Kind.SYMLINK:
                links.append(span.record)
            else:
                self._make_directory(span.record)
        for record in links:
            self._write_link(record, targets[record.name])
        self._finish_directories()

    def _path(self, record: Record) -> str:
        return record.name.removeprefix(self._prefix)

    def _directory(self, path: str) -> int:
        """An open descriptor of a directory below the root, made if need be.

        Those on its way are kept for the next call: the entries of one directory mostly follow each other.
        """
        if path == self._here:
            return self._open[-1][1]
        parts = path.split("/") if path else []
        shared = 0
        while shared < min(len(parts), len(self._open) - 1) and self._open[shared + 1][0] == parts[shared]:
            shared += 1
        while len(self._open) > shared + 1:
            os.close(self._open.pop()[1])
        for depth in range(shared, len(parts)):
            self._enter("/".join(parts[: depth + 1]), parts[depth])
        self._here = path
        return self._open[-1][1]

    def _enter(self, path: str, leaf: str) -> None:
        above = self._open[-1][1]
        if path not in self._made:
            try:
                os.mkdir(leaf, 0o700, dir_fd=above)
            except OSError as error:
                raise _clash(error) from error
            self._made[path] = None
        self._open.append((leaf, os.open(leaf, OPEN_DIRECTORY, dir_fd=above)))

    def _make_directory(self, record: Record) -> None:
        path = self._path(record)
        self._directory(path)
        self._made[path] = record

    def _finish_directories(self) -> None:
        """What lies inside comes first."""
        for path in sorted(self._made, reverse=True):
            self._finish(self._directory(path), self._made[path])
        self._finish(self._directory(""), None)

    def _write_file(self, span: Span) -> None:
        record = span.record
        parent, _, leaf = self._path(record).rpartition("/")
        directory = self._directory(parent)
        try:
            fd = os.open(leaf, _CREATE, 0o600, dir_fd=directory)
        except OSError as error:
            raise _clash(error) from error
        try:
            if is_small(record):
                _write_all(fd, whole(record, self._ahead.read(span.start, record.compressed_size)))
            else:
                for piece in content(self._archive, span):
                    _write_all(fd, piece)
            self._finish(fd, record)
        finally:
            os.close(fd)

    def _write_link(self, record: Record, target: bytes) -> None:
        parent, _, leaf = self._path(record).rpartition("/")
        directory = self._directory(parent)
        try:
            os.symlink(target, os.fsencode(leaf), dir_fd=directory)
        except OSError as error:
            raise _clash(error) from error
        if self._manner.owner is not None:
            os.chown(leaf, *self._manner.owner, dir_fd=directory, follow_symlinks=False)
        if not self._manner.fresh_times:
            times = (record.mtime_ns, record.mtime_ns)
            os.utime(leaf, ns=times, dir_fd=directory, follow_symlinks=False)
        if self._manner.statuses is not None:
            status = os.stat(leaf, dir_fd=directory, follow_symlinks=False)
            self._manner.statuses[record.raw_name] = status_of(status)

    def _finish(self, fd: int, record: Record | None) -> None:
        """The owner before the mode: a change of owner may clear bits of it. None: a directory without entry."""
        if self._manner.owner is not None:
            os.fchown(fd, *self._manner.owner)
        if record is None:
            return
        os.fchmod(fd, self._mode(record))
        if not self._manner.fresh_times:
            mtime_ns = record.mtime_ns
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        if self._manner.statuses is not None:
            self._manner.statuses[record.raw_name.removesuffix(b"/")] = status_of(os.fstat(fd))

    def _mode(self, record: Record) -> int:
        """Ours as it was; a stranger's becomes plain. Never set-user-id or set-group-id."""
        if not self._manner.plain_modes:
            return record.mode & 0o1777
        return 0o755 if record.kind is Kind.DIRECTORY or record.mode & 0o100 else 0o644


def _write_all(fd: int, piece: bytes) -> None:
    written = os.write(fd, piece) if piece else 0
    while written < len(piece):
        written += os.write(fd, memoryview(piece)[written:])


def _clash(error: OSError) -> Exception:
    """A file system may take two names for one, or refuse one that others take."""
    if error.errno not in _CANNOT_HOLD:
        return error
    message = "The file system here cannot hold the names of this archive. Nothing was written."
    return ArchiveRefused(Refusal.CLASHING_NAMES, message)
