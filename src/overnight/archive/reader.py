"""Finds and parses the directory of a zip. Believes nothing: every number is checked against the file."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from overnight.archive import layout
from overnight.archive.model import ArchiveRefused, Caps, Entry, Kind, Refusal

_LOCATED = layout.END64.size + layout.LOCATOR.size
_LONGEST_COMMENT = 0xFFFF
_DOS_DIRECTORY = 0x10
_PLAIN_MODES = {Kind.FILE: 0o644, Kind.DIRECTORY: 0o755, Kind.SYMLINK: 0o777}
"""For archives of systems that have no modes."""
_ONE_VOLUME = frozenset({0, layout.FULL_16})
_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK}


def damaged(what: str) -> ArchiveRefused:
    return ArchiveRefused(Refusal.DAMAGED, f"The zip is damaged: {what}. Nothing was written.")


class ArchiveFile:
    """An open zip, read by position, so that several readers may share it.

    With `start` the file holds only what comes from that offset on, and positions are still those of the whole zip.
    """

    def __init__(self, fd: int, start: int = 0) -> None:
        self._fd = fd
        self._start = start
        self.size = start + os.fstat(fd).st_size

    def duplicate(self) -> int:
        """A descriptor of the file, which the caller closes."""
        return os.dup(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes; raises ArchiveRefused if the file ends before."""
        at = offset - self._start
        piece = os.pread(self._fd, length, at)
        if len(piece) == length:
            return piece
        return self._rest([piece], at + len(piece), length - len(piece))

    def _rest(self, pieces: list[bytes], at: int, length: int) -> bytes:
        """The kernel reads at most 2 GiB at a time."""
        while length > 0:
            piece = os.pread(self._fd, length, at)
            if not piece:
                raise damaged("it ends too early")
            pieces.append(piece)
            at += len(piece)
            length -= len(piece)
        return b"".join(pieces)


class Window:
    """Reads a stretch at a time: what is asked for next mostly lies right behind what was asked for last."""

    def __init__(self, archive: ArchiveFile, stretch: int) -> None:
        self._archive = archive
        self._stretch = stretch
        self._start = 0
        self._block = b""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes; raises ArchiveRefused if the file ends before."""
        at = offset - self._start
        if at < 0 or at + length > len(self._block):
            ahead = min(self._stretch, self._archive.size - offset)
            self._start, self._block, at = offset, self._archive.read(offset, max(ahead, length)), 0
        return self._block[at : at + length]


@contextmanager
def open_archive(path: Path, start: int = 0) -> Iterator[ArchiveFile]:
    """`start`: the offset in the zip of the first byte of the file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArchiveRefused(Refusal.NOT_A_ZIP, "This is not a file. Nothing was written.")
        yield ArchiveFile(fd, start)
    finally:
        os.close(fd)


class Record(NamedTuple):
    """A central record. `number` (from 1) is what messages call it: names are a stranger's input.

    A tuple, because an archive may have a million of them: it takes a third of the time of a frozen dataclass
    to make, and the collector leaves it alone.
    """

    number: int
    name: str
    kind: Kind
    mode: int
    size: int
    compressed_size: int
    header_offset: int
    crc: int
    method: int
    flags: int
    raw_name: bytes
    dos_clock: int
    dos_date: int
    extra: bytes

    @property
    def mtime_ns(self) -> int:
        return layout.mtime_ns_of(self.dos_clock, self.dos_date, self.extra)

    @property
    def entry(self) -> Entry:
        return Entry(self.name, self.kind, self.size, self.mode, self.mtime_ns)


@dataclass(frozen=True, slots=True)
class Directory:
    """The records in the order of the archive; the entries themselves end at `start`."""

    start: int
    records: list[Record]


@dataclass(frozen=True, slots=True)
class _End:
    count: int
    size: int
    start: int


def read_directory(archive: ArchiveFile, caps: Caps, *, stranger: bool = False) -> Directory:
    """Raises ArchiveRefused. What a name that is not UTF-8 means depends on whose archive it is."""
    _check_cap(archive.size, caps.archive_bytes, "The zip", "bytes")
    end = _read_end(archive)
    _check_cap(end.count, caps.entries, "The zip", "entries")
    _check_cap(end.size, caps.directory_bytes, "Its directory", "bytes")
    return Directory(end.start, list(_Records(stranger).parse(archive.read(end.start, end.size), end.count)))


def _check_cap(number: int, cap: int, what: str, of: str) -> None:
    if number > cap:
        raise ArchiveRefused(Refusal.TOO_LARGE, f"{what} has more than {cap} {of}. Nothing was written.")


def _read_end(archive: ArchiveFile) -> _End:
    """The end record whose comment reaches the very end of the file. Others could hide an archive."""
    length = min(archive.size, layout.END.size + _LONGEST_COMMENT)
    tail = archive.read(archive.size - length, length)
    # Only where a whole record fits: its own fields may hold the same four bytes.
    last = length - layout.END.size
    found = tail.rfind(layout.END_SIGNATURE, 0, last + len(layout.END_SIGNATURE)) if last >= 0 else -1
    if found < 0:
        message = "This is not a zip, or its end is missing. Nothing was written."
        raise ArchiveRefused(Refusal.NOT_A_ZIP, message)
    _, disk, first_disk, here, count, size, start, comment = layout.END.unpack_from(tail, found)
    if found + layout.END.size + comment != length:
        raise damaged("bytes follow its end")
    if (disk, first_disk, here) != (0, 0, count):
        raise ArchiveRefused(Refusal.UNSUPPORTED, "The zip has several volumes. Send it as one file.")
    position = archive.size - length + found
    end, position = _widened(archive, _End(count, size, start), position)
    if end.start + end.size != position:
        raise damaged("its directory does not end where it should")
    return end


def _widened(archive: ArchiveFile, plain: _End, position: int) -> tuple[_End, int]:
    """The zip64 numbers if there are any, and where the end records begin.

    The record is looked for by arithmetic only. What merely looks like a locator (the tail of a central
    record may hold any bytes) is none.
    """
    if position < _LOCATED:
        return plain, position
    block = archive.read(position - _LOCATED, _LOCATED)
    signature, disk, offset, disks = layout.LOCATOR.unpack_from(block, layout.END64.size)
    located = (signature, disk, offset, disks) == (layout.LOCATOR_SIGNATURE, 0, position - _LOCATED, 1)
    if not located or not block.startswith(layout.END64_SIGNATURE):
        return plain, position
    _, length, _, _, disk, first_disk, here, count, size, start = layout.END64.unpack_from(block)
    wide = _End(count, size, start)
    if (length, disk, first_disk, here) != (layout.END64.size - 12, 0, 0, count) or not _agree(plain, wide):
        raise damaged("its two end records disagree")
    return wide, position - _LOCATED


def _agree(plain: _End, wide: _End) -> bool:
    return (
        plain.count in {wide.count, layout.FULL_16}
        and plain.size in {wide.size, layout.FULL_32}
        and plain.start in {wide.start, layout.FULL_32}
    )


class _Records:
    """Parses the central records. Modes are few, and what one means is worked out once."""

    def __init__(self, stranger: bool) -> None:
        self._stranger = stranger
        self._natures: dict[tuple[int, int, bool], tuple[Kind, int]] = {}

    def parse(self, block: bytes, count: int) -> Iterator[Record]:
        at, size = 0, len(block)
        for number in range(1, count + 1):
            if at + layout.CENTRAL.size > size:
                raise damaged("its directory is shorter than it says")
            fields = layout.CENTRAL.unpack_from(block, at)
            name_at = at + layout.CENTRAL.size
            extra_at = name_at + fields[10]
            comment_at = extra_at + fields[11]
            at = comment_at + fields[12]
            if at > size or fields[0] != layout.CENTRAL_SIGNATURE:
                raise damaged("its directory is shorter than it says")
            yield self._record(number, fields, block[name_at:extra_at], block[extra_at:comment_at])
        if at != size:
            raise damaged("its directory is longer than it says")

    def _record(self, number: int, fields: tuple[int, ...], raw_name: bytes, extra: bytes) -> Record:
        _, maker, _, flags, method, clock, date, crc, compressed, size, *_, disk, _, attributes, offset = (
            fields
        )
        if disk not in _ONE_VOLUME:
            raise ArchiveRefused(Refusal.UNSUPPORTED, "The zip has several volumes. Send it as one file.")
        if layout.FULL_32 in (size, compressed, offset):
            size, compressed, offset = _wide_numbers(number, (size, compressed, offset), extra)
        name = _text(number, raw_name, flags, self._stranger)
        form = (maker >> 8, attributes, raw_name.endswith(b"/"))
        nature = self._natures.get(form)
        if nature is None:
            nature = self._natures[form] = _nature(number, *form)
        where = (size, compressed, offset, crc, method, flags)
        return Record(number, name.removesuffix("/"), *nature, *where, raw_name, clock, date, extra)


def _wide_numbers(number: int, short: tuple[int, int, int], extra: bytes) -> Iterator[int]:
    """Each full 32-bit field takes the next 8 bytes of the zip64 field (APPNOTE 4.5.3)."""
    field, at = layout.field_of(extra, layout.EXTRA_ZIP64), 0
    for value in short:
        if value != layout.FULL_32 or not field:
            yield value
            continue
        if at + 8 > len(field):
            raise damaged(f"entry {number} lacks a length")
        yield int.from_bytes(field[at : at + 8], "little")
        at += 8


def _text(number: int, raw_name: bytes, flags: int, stranger: bool) -> str:
    """UTF-8 where it is said or where it fits (macOS does not say it).

    Other bytes of ours are those of the file's name, kept as `os.fsdecode` keeps them; a stranger's are of
    the code page of old DOS.
    """
    try:
        return raw_name.decode()
    except UnicodeDecodeError:
        if flags & layout.FLAG_UTF8:
            message = f"Entry {number} has a name that is not UTF-8. Nothing was written."
            raise ArchiveRefused(Refusal.UNSAFE_NAME, message) from None
    return raw_name.decode("cp437") if stranger else raw_name.decode("utf-8", "surrogateescape")


def _nature(number: int, system: int, attributes: int, is_directory: bool) -> tuple[Kind, int]:
    """The kind and the permission bits. A slash at the end of the name and the mode must agree."""
    by_name = Kind.DIRECTORY if is_directory else Kind.FILE
    mode = attributes >> 16 if system in {layout.UNIX, layout.DARWIN} else 0
    if mode == 0:
        kind = Kind.DIRECTORY if attributes & _DOS_DIRECTORY else by_name
        return kind, _PLAIN_MODES[kind]
    form = stat.S_IFMT(mode)
    if form and form not in _KINDS:
        message = f"Entry {number} is neither file, directory nor link. Nothing was written."
        raise ArchiveRefused(Refusal.SPECIAL_FILE, message)
    kind = _KINDS[form] if form else by_name
    if is_directory and kind is not Kind.DIRECTORY:
        raise damaged(f"entry {number} is a directory by name only")
    return kind, stat.S_IMODE(mode)
