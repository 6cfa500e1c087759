"""An archive that a pack copies unchanged entries from: each lies in it as one range of bytes."""

import errno
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import compress, islice
from operator import ge
from typing import NamedTuple

from overnight.archive import layout
from overnight.archive.codec import DEFLATED
from overnight.archive.model import ArchiveRefused, Base
from overnight.archive.reader import ArchiveFile, open_archive
from overnight.archive.record import Record, directory_sha256, load

_LENGTHS = struct.Struct("<28x3H8xL")
"""Of a central record: the lengths of its name, extra fields and comment, and the offset of its header."""
_BEFORE_NAME = layout.CENTRAL.size
_OFFSET = struct.Struct("<L")
_OFFSET_AT = 42


class Run(NamedTuple):
    """Entries that lie edge to edge: their range of bytes, and their numbers from `first` until before `end`."""

    offset: int
    length: int
    first: int
    end: int


class OldContent(NamedTuple):
    """The content of an entry as it lies in the archive. `size` is that of the plain content."""

    archive: ArchiveFile
    start: int
    compressed_size: int
    size: int
    method: int

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self.compressed_size - offset)
        return self.archive.read(self.start + offset, length) if length > 0 else b""


class OldArchive:
    """The directory stays packed as it is read: about 150 bytes of ours per entry beside it."""

    def __init__(self, archive: ArchiveFile, start: int, record: Record) -> None:
        self.record = record
        self._archive = archive
        self._directory = archive.read(start, archive.size - start)
        self._numbers: dict[bytes, int] = {}
        self._places = array("Q", [0])
        self._offsets = array("Q")
        self._index()
        self._offsets.append(start)
        if any(map(ge, self._offsets, islice(self._offsets, 1, None))) or self._offsets[0] != 0:
            raise ValueError("not an archive of ours")
        try:
            self._numbers_in_record = array("Q", map(self._numbers.__getitem__, record.names()))
        except KeyError:
            raise ValueError("not the archive of this record") from None

    def read(self, offset: int, length: int) -> bytes:
        try:
            return self._archive.read(offset, length)
        except ArchiveRefused as cut:
            raise OSError(errno.EIO, "The base archive was cut while it was copied") from cut

    def runs(self, same: Sequence[int]) -> Iterator[Run]:
        """`same` flags, for each of `record.names()`, whether it stays."""
        kept = bytearray(len(self._offsets) - 1)
        for number in compress(self._numbers_in_record, same):
            kept[number] = 1
        first = 0
        while (first := _find(kept, 1, first)) < len(kept):
            end = _find(kept, 0, first)
            offset = self._offsets[first]
            yield Run(offset, self._offsets[end] - offset, first, end)
            first = end

    def moved(self, run: Run, position: int) -> Iterator[bytes | bytearray]:
        """The central records of a run that now begins at `position`."""
        shift = position - run.offset
        first_place = self._places[run.first]
        records = bytearray(self._directory[first_place : self._places[run.end]])
        if shift == 0:
            yield records
        elif max(position, run.offset) + run.length < layout.FULL_32:
            for number in range(run.first, run.end):
                at = self._places[number] - first_place + _OFFSET_AT
                _OFFSET.pack_into(records, at, self._offsets[number] + shift)
            yield records
        else:
            for number in range(run.first, run.end):
                record = self._directory[self._places[number] : self._places[number + 1]]
                yield _moved(record, self._offsets[number] + shift)

    def content(self, name: bytes) -> OldContent | None:
        """None if there is no such entry, or it is over 4 GiB."""
        number = self._numbers.get(name)
        if number is None:
            return None
        central = layout.CENTRAL.unpack_from(self._directory, self._places[number])
        method, compressed_size, size = central[4], central[8], central[9]
        if layout.FULL_32 in {compressed_size, size} or method not in {0, DEFLATED}:
            return None
        offset = self._offsets[number]
        header = layout.LOCAL.unpack(self._archive.read(offset, layout.LOCAL.size))
        start = offset + layout.LOCAL.size + header[-2] + header[-1]
        return OldContent(self._archive, start, compressed_size, size, method)

    def _index(self) -> None:
        at, block, lengths = 0, self._directory, _LENGTHS.unpack_from
        numbers, places, offsets = self._numbers, self._places, self._offsets
        while block.startswith(layout.CENTRAL_SIGNATURE, at):
            name_length, extra_length, comment_length, offset = lengths(block, at)
            name_at = at + _BEFORE_NAME
            extra_at = name_at + name_length
            if offset == layout.FULL_32:
                offset = _long_offset(block[at : extra_at + extra_length])
            numbers[block[name_at:extra_at].removesuffix(b"/")] = len(offsets)
            offsets.append(offset)
            at = extra_at + extra_length + comment_length
            places.append(at)


def _find(flags: Sequence[int], flag: int, start: int) -> int:
    """The first place of the flag from `start` on, or the end."""
    try:
        return flags.index(flag, start)
    except ValueError:
        return len(flags)


def _extra(record: bytes) -> tuple[int, bytes, bytes]:
    """Where the extra fields begin, the 64-bit numbers in them, and the other fields. Ours have the numbers first."""
    name_length, extra_length, _, _ = _LENGTHS.unpack_from(record)
    at = layout.CENTRAL.size + name_length
    extra = record[at : at + extra_length]
    numbers = layout.field_of(extra, layout.EXTRA_ZIP64)
    return at, numbers, extra[layout.EXTRA_HEADER.size + len(numbers) :] if numbers else extra


def _long_offset(record: bytes) -> int:
    """The offset is the last of the 64-bit numbers that are there (APPNOTE 4.5.3)."""
    return int.from_bytes(_extra(record)[1][-8:], "little")


def _moved(record: bytes, offset: int) -> bytes:
    """The same central record for another place of its entry."""
    (before,) = _OFFSET.unpack_from(record, _OFFSET_AT)
    if max(before, offset) < layout.FULL_32:
        return record[:_OFFSET_AT] + _OFFSET.pack(offset) + record[_OFFSET_AT + _OFFSET.size :]
    at, numbers, rest = _extra(record)
    numbers = numbers[:-8] if before == layout.FULL_32 else numbers
    if offset >= layout.FULL_32:
        numbers += offset.to_bytes(8, "little")
    extra = (layout.extra_field(layout.EXTRA_ZIP64, numbers) if numbers else b"") + rest
    fields = list(layout.CENTRAL.unpack_from(record))
    version = layout.VERSION_ZIP64 if numbers else layout.VERSION_PLAIN
    fields[1:3] = layout.UNIX << 8 | version, version
    fields[11] = len(extra)
    fields[-1] = min(offset, layout.FULL_32)
    return layout.CENTRAL.pack(*fields) + record[layout.CENTRAL.size : at] + extra


@contextmanager
def opened(base: Base | None) -> Iterator[OldArchive | None]:
    """None if there is none, or it is missing, damaged or not the one of its record."""
    record = load(base.record) if base else None
    with ExitStack() as resources:
        try:
            archive = resources.enter_context(open_archive(base.archive)) if base and record else None
        except (OSError, ArchiveRefused):
            archive = None
        yield _fitting(archive, record) if archive and record else None


def _fitting(archive: ArchiveFile, record: Record) -> OldArchive | None:
    try:
        start = _directory_start(archive)
        fits = archive.size == record.archive_size
        if not fits or directory_sha256(archive, start) != record.directory_sha256:
            return None
        return OldArchive(archive, start, record)
    except (ArchiveRefused, ValueError, struct.error):
        return None


def _directory_start(archive: ArchiveFile) -> int:
    """Of an archive of ours, which ends in an end record without a comment."""
    end_at = archive.size - layout.END.size
    start = layout.END.unpack(archive.read(end_at, layout.END.size))[-2]
    end64_at = end_at - layout.LOCATOR.size - layout.END64.size
    if end64_at >= 0:
        block = archive.read(end64_at, layout.END64.size)
        if block.startswith(layout.END64_SIGNATURE):
            start = layout.END64.unpack(block)[-1]
    return int(start)
