"""Packs trees into a zip: the story from a walk to a file that stays."""

import hashlib
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Generic, TypeVar

from overnight.archive.durable import whole_file
from overnight.archive.layout import DOS_FIRST, NS
from overnight.archive.model import (
    DEFAULT_EXCLUDE,
    OWN_CAPS,
    RESERVED,
    ArchiveRefused,
    Base,
    Caps,
    Check,
    Kind,
    LeftOut,
    Omission,
    Packed,
    Part,
    Refusal,
)
from overnight.archive.source import READ_WHOLE, Found, Omitted, Spool, head_of, read_node
from overnight.archive.walk import Node, Walk
from overnight.archive.writer import EMPTY, Body, Head, ZipWriter, squeezed

LISTED = 100
"""Paths named in a report; the rest is only counted."""
_PRIVATE_FILE, _PRIVATE_DIRECTORY = 0o600, 0o700
_NO_MTIME_NS = DOS_FIRST * NS
"""For entries that are no file of the tree: the earliest date every unzip can show."""

Target = BinaryIO | Path


def pack(
    parts: Sequence[Part],
    target: Target,
    *,
    entries: Mapping[str, bytes] | None = None,
    exclude: Collection[str] = DEFAULT_EXCLUDE,
    limits: Caps = OWN_CAPS,
    base: Base | None = None,
    record: Path | None = None,
    settled: bool = True,
    check: Check = Check.STATUS,
    wrote: Callable[[int], None] | None = None,
) -> Packed:
    """Writes `entries` (name to content) and then each part, in bytes order, to a stream or a durable file.

    Equal trees give equal bytes. `exclude` names components of the workspace; what could not be kept is
    listed. Links are stored, never followed. Raises ArchiveRefused(TOO_LARGE) over a limit, OSError if a
    root is no directory or the target cannot be written; then a target that is a path is untouched.
    """
    _check_layout(parts, entries or {})
    if isinstance(target, Path):
        with whole_file(target) as file:
            return _pack(parts, file, entries or {}, exclude, limits, spool_in=str(target.parent))
    return _pack(parts, target, entries or {}, exclude, limits, spool_in=None)


def _check_layout(parts: Sequence[Part], entries: Mapping[str, bytes]) -> None:
    for name in (*(part.prefix for part in parts if part.prefix), *entries):
        if not name.startswith(f"{RESERVED}/") or str(PurePosixPath(name)) != name or ".." in name.split("/"):
            raise ValueError(f"{name!r} must lie below {RESERVED}/")


def _pack(
    parts: Sequence[Part],
    file: BinaryIO,
    entries: Mapping[str, bytes],
    exclude: Collection[str],
    limits: Caps,
    spool_in: str | None,
) -> Packed:
    with tempfile.SpooledTemporaryFile(max_size=2 * READ_WHOLE, dir=spool_in) as spool:
        packing = _Packing(file, exclude, limits, spool)
        packing.add_entries(parts, entries)
        for part in parts:
            packing.add_part(part)
        return packing.finish()


T = TypeVar("T")


class _Report(Generic[T]):
    """The first lines of a list, and how many there were."""

    def __init__(self) -> None:
        self.first: list[T] = []
        self.total = 0

    def add(self, line: T) -> None:
        self.total += 1
        if len(self.first) < LISTED:
            self.first.append(line)


class _Output:
    """Counts and hashes the bytes on their way; stops at the largest archive allowed."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._limit = limit
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self._limit:
            raise _too_large("bytes in the archive", self._limit)
        self.sha256.update(chunk)
        self._file.write(chunk)


class _Packing:
    def __init__(self, file: BinaryIO, exclude: Collection[str], limits: Caps, spool: Spool) -> None:
        self._output = _Output(file, limits.archive_bytes)
        self._writer = ZipWriter(self._output.write)
        self._exclude = exclude
        self._limits = limits
        self._spool = spool
        self._content_bytes = 0
        self._left_out = _Report[LeftOut]()
        self._changed = _Report[str]()

    def add_entries(self, parts: Sequence[Part], entries: Mapping[str, bytes]) -> None:
        """Ours come first, and every directory that they and the prefixes imply is said."""
        names = (*entries, *(part.prefix for part in parts))
        parents = {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}
        for name in sorted(parents - {part.prefix for part in parts}, key=str.encode):
            self._add(Head(name, Kind.DIRECTORY, _PRIVATE_DIRECTORY, _NO_MTIME_NS), EMPTY)
        for name in sorted(entries, key=str.encode):
            self._add(Head(name, Kind.FILE, _PRIVATE_FILE, _NO_MTIME_NS), squeezed(entries[name]))

    def add_part(self, part: Part) -> None:
        with closing(iter(Walk(part, self._exclude, self._limits, self._leave_out))) as nodes:
            for node in nodes:
                self._add_node(node)

    def finish(self) -> Packed:
        self._writer.finish()
        return Packed(
            entries=self._writer.entries,
            size=self._output.size,
            content_bytes=self._content_bytes,
            sha256=self._output.sha256.hexdigest(),
            left_out=tuple(self._left_out.first),
            left_out_total=self._left_out.total,
            changed=tuple(self._changed.first),
            changed_total=self._changed.total,
        )

    def _add_node(self, node: Node) -> None:
        if node.status is not None:
            self._add(head_of(node, Kind.DIRECTORY, node.status), EMPTY)
            return
        try:
            found = self._read_twice(node)
        except Omitted as omitted:
            self._leave_out(node.name, omitted.reason)
            return
        if not found.steady:
            self._changed.add(node.name)
        self._add(found.head, found.body)

    def _read_twice(self, node: Node) -> Found:
        """What moved under the first reading gets a second one, and that one counts."""
        try:
            found = read_node(node, self._spool, largest=self._limits.file_bytes)
            if found.steady:
                return found
        except Omitted as omitted:
            if omitted.reason is not Omission.VANISHED:
                raise
        return read_node(node, self._spool, largest=self._limits.file_bytes)

    def _add(self, head: Head, body: Body) -> None:
        self._content_bytes += body.size
        if self._writer.entries >= self._limits.entries:
            raise _too_large("entries", self._limits.entries)
        if self._content_bytes > self._limits.content_bytes:
            raise _too_large("bytes of content", self._limits.content_bytes)
        if self._writer.directory_bytes > self._limits.directory_bytes:
            raise _too_large("bytes of names", self._limits.directory_bytes)
        self._writer.add(head, body)

    def _leave_out(self, path: str, reason: Omission) -> None:
        self._left_out.add(LeftOut(path, reason))


def _too_large(what: str, limit: int) -> ArchiveRefused:
    return ArchiveRefused(
        Refusal.TOO_LARGE,
        f"The workspace does not fit into an archive: more than {limit} {what}. Nothing was stored.",
    )
