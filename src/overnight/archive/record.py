"""What a tree was when its archive was made or restored, so that the next pack can tell what changed.

A record is worth something on its own machine only (inode and ctime), so it lies beside the archive and never
in it, where nobody but us can write. Whoever finds it missing or damaged packs in full.

It is laid out as the tree is, a section for each directory: what is compared with one listing lies together, and
is unpacked when that listing is read.
"""

import hashlib
import os
import stat
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from overnight.archive.codec import crc32
from overnight.archive.durable import whole_file
from overnight.archive.layout import NS
from overnight.archive.reader import ArchiveFile

_STATUS = struct.Struct("<QqqQI")
STATUS_BYTES = _STATUS.size
_ONE_STATUS = struct.Struct(f"{_STATUS.size}s")
_ONE_SIZE = struct.Struct(f"<Q{_STATUS.size - 8}x")
SETTLED_NS = 60 * NS
"""A younger change may share its time with a later one: clocks of file systems tick every 4 ms to 2 s, and a store
into a mapped page that is dirty already changes no time before Linux has written it back (within 35 s by default;
measured on ext4 with an archive that kept the older content). tmpfs tells of no such store at all."""

_HEAD = struct.Struct("<8s2Q32s32s")
"""Magic, size of the archive, number of sections, SHA-256 of the archive and of its directory."""
_CRC = struct.Struct("<L")
"""At the end, of all before it."""
_SECTION = struct.Struct(f"<{_STATUS.size}sQQ")
"""The status of the directory itself, how many children it has, the bytes of their names."""
_MAGIC = b"onrec02\n"
_NOT_HASHED = bytes(32)
NOT_AN_ENTRY = bytes(_STATUS.size)
"""In place of a status: the root of a part."""

Fields = tuple[int, ...]
fields_of = attrgetter("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_mode")
"""All that tells a changed file, from its `os.stat_result`."""


def status_of(status: os.stat_result) -> bytes:
    """`fields_of`, in 36 bytes.

    Of a directory only mtime and mode: what is in it is looked at by itself, and a move changes its ctime.
    """
    if stat.S_ISDIR(status.st_mode):
        return _packed(0, status.st_mtime_ns, 0, 0, status.st_mode)
    return _packed(*fields_of(status))


def is_as_recorded(fields: Fields | None, status: os.stat_result) -> bool:
    """Of a file or link; no status is as None."""
    return fields is not None and fields == _STATUS.unpack(status_of(status))


def _packed(size: int, mtime_ns: int, ctime_ns: int, inode: int, mode: int) -> bytes:
    try:
        return _STATUS.pack(size, mtime_ns, ctime_ns, inode, mode)
    except struct.error:  # a time beyond 2262: whether it changed shows in its low 64 bits too
        return _STATUS.pack(size, _wrapped(mtime_ns), _wrapped(ctime_ns), inode, mode)


def _wrapped(time_ns: int) -> int:
    return (time_ns + (1 << 63)) % (1 << 64) - (1 << 63)


def unsure_status_of(status: os.stat_result) -> bytes:
    """Without ctime and inode, so that it equals no file's: the content may be newer than it says."""
    if stat.S_ISDIR(status.st_mode):
        return status_of(status)
    return _packed(status.st_size, status.st_mtime_ns, 0, 0, status.st_mode)


def as_recorded(status: os.stat_result, *, steady: bool, live_since_ns: int | None) -> bytes:
    """What the record of a pack says: unsure if it moved while it was read, or is too young in a living tree."""
    sure = steady and (live_since_ns is None or not is_young(status, live_since_ns))
    return status_of(status) if sure else unsure_status_of(status)


def is_young(status: os.stat_result, now_ns: int) -> bool:
    """Whether a later change might not show. `now_ns` is the file system's own time."""
    return max(status.st_mtime_ns, status.st_ctime_ns) >= now_ns - SETTLED_NS


def same_but_for_times_of_change(before: bytes, now: bytes) -> bool:
    """Whether two statuses agree in what an archive keeps: size, mtime and mode."""
    return before[:16] == now[:16] and before[-4:] == now[-4:]


def _is_of_directory(status: bytes) -> bool:
    return stat.S_ISDIR(int.from_bytes(status[-4:], "little"))


class Section(NamedTuple):
    """A directory: its own status, and the names and statuses of its children that are none themselves.

    The names are joined by NUL. A status is `status_of`, or `unsure_status_of` of what may have been written to
    right after it was looked at.
    """

    status: bytes
    names: bytes
    statuses: bytes

    @property
    def is_entry(self) -> bool:
        return self.status != NOT_AN_ENTRY

    @property
    def children(self) -> int:
        return len(self.statuses) // _STATUS.size

    def raw_names(self) -> list[bytes]:
        return self.names.split(b"\0") if self.statuses else []

    def fields(self) -> dict[str, Fields | None]:
        """Of each child, by its name as a listing gives it."""
        if not self.statuses:
            return {}
        return dict(zip(os.fsdecode(self.names).split("\0"), _STATUS.iter_unpack(self.statuses), strict=True))

    def each(self) -> Iterator[tuple[bytes, bytes]]:
        """The name and status of each child."""
        statuses = (status for (status,) in _ONE_STATUS.iter_unpack(self.statuses))
        return zip(self.raw_names(), statuses, strict=True)


@dataclass(frozen=True, slots=True)
class Record:
    """`sections`: by the name of each directory, raw and with a slash at its end; empty for the workspace.

    Entries that are no file of the tree (`.overnight/session.json`) are not in it, nor is the root of a part.
    The directory of a zip holds the names, lengths and checksums of all entries, so `directory_sha256` ties a
    record to its archive without reading all of it again. `archive_sha256` is None if nobody read all of it.
    """

    archive_size: int
    archive_sha256: str | None
    directory_sha256: str
    sections: Mapping[bytes, Section]

    @property
    def statuses(self) -> dict[bytes, bytes]:
        """Of every entry, by its name without a slash at its end."""
        return dict(_entries(self.sections))

    def names(self) -> Iterator[bytes]:
        """Of every entry, without a slash at its end: a section's own, then its children's."""
        for prefix, section in self.sections.items():
            if section.is_entry:
                yield prefix[:-1]
            if section.statuses:
                yield from (prefix + section.names.replace(b"\0", b"\0" + prefix)).split(b"\0")

    def changed_since(self, before: "Record") -> Iterator[bytes]:
        """The names of what `before` has not, or has differently."""
        suspects = {
            prefix: section
            for prefix, section in self.sections.items()
            if before.sections.get(prefix) != section
        }
        known = dict(
            _entries({prefix: before.sections[prefix] for prefix in suspects if prefix in before.sections})
        )
        return (name for name, status in _entries(suspects) if known.get(name) != status)

    def save(self, path: Path) -> None:
        """Whole or not at all, but not forced to the disk: after a power cut a full pack makes a new one."""
        sections = self.sections.values()
        head = _HEAD.pack(
            _MAGIC,
            self.archive_size,
            len(self.sections),
            bytes.fromhex(self.archive_sha256) if self.archive_sha256 else _NOT_HASHED,
            bytes.fromhex(self.directory_sha256),
        )
        data = b"".join(
            (
                head,
                *(
                    _SECTION.pack(section.status, section.children, len(section.names))
                    for section in sections
                ),
                *(section.statuses for section in sections),
                *(section.names for section in sections),
                b"\0".join(self.sections),
            )
        )
        with whole_file(path, durable=False) as file:
            file.write(data)
            file.write(_CRC.pack(crc32(data)))


def _entries(sections: Mapping[bytes, Section]) -> Iterator[tuple[bytes, bytes]]:
    for prefix, section in sections.items():
        if section.is_entry:
            yield prefix[:-1], section.status
        for name, status in section.each():
            yield prefix + name, status


class Recording:
    """Gathers the statuses of a tree, in whatever order they come."""

    def __init__(self) -> None:
        self._own: dict[bytes, bytes] = {}
        self._names: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self._statuses: defaultdict[bytes, list[bytes]] = defaultdict(list)

    def add(self, name: bytes, status: bytes) -> None:
        """One entry, by its name without a slash at its end."""
        if _is_of_directory(status):
            self._own[name + b"/"] = status
            return
        prefix, slash, leaf = name.rpartition(b"/")
        self.add_section(prefix + slash, Section(NOT_AN_ENTRY, leaf, status))

    def add_section(self, prefix: bytes, section: Section) -> None:
        """All or some of a directory."""
        if section.is_entry:
            self._own[prefix] = section.status
        if section.statuses:
            self._names[prefix].append(section.names)
            self._statuses[prefix].append(section.statuses)

    def content_bytes(self) -> int:
        """Of all files and links so far."""
        statuses = b"".join(status for some in self._statuses.values() for status in some)
        return sum(size for (size,) in _ONE_SIZE.iter_unpack(statuses))

    def sections(self) -> dict[bytes, Section]:
        return {
            prefix: Section(
                self._own.get(prefix, NOT_AN_ENTRY),
                b"\0".join(self._names.get(prefix, ())),
                b"".join(self._statuses.get(prefix, ())),
            )
            for prefix in dict.fromkeys((*self._own, *self._names))
        }


def sections_of(statuses: Mapping[bytes, bytes]) -> dict[bytes, Section]:
    """From the `status_of` every entry, by its name without a slash at its end."""
    recording = Recording()
    for name, status in statuses.items():
        recording.add(name, status)
    return recording.sections()


def chosen(section: Section, flags: Sequence[int]) -> Section:
    """The section with those of its children that are flagged, and without its own status."""
    some = [line for line, flag in zip(section.each(), flags, strict=True) if flag]
    return Section(NOT_AN_ENTRY, b"\0".join(name for name, _ in some), b"".join(status for _, status in some))


def load(path: Path) -> Record | None:
    """None if the file is missing or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    data, crc = data[: -_CRC.size], data[-_CRC.size :]
    if len(data) < _HEAD.size or crc != _CRC.pack(crc32(data)):
        return None
    magic, size, count, archive_sha256, directory_sha256 = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        return None
    sha256 = None if archive_sha256 == _NOT_HASHED else archive_sha256.hex()
    return Record(size, sha256, directory_sha256.hex(), _sections(data[_HEAD.size :], count))


def _sections(body: bytes, count: int) -> dict[bytes, Section]:
    edge = count * _SECTION.size
    heads = list(_SECTION.iter_unpack(body[:edge]))
    names_at = edge + sum(children for _, children, _ in heads) * _STATUS.size
    prefixes_at = names_at + sum(length for _, _, length in heads)
    prefixes = body[prefixes_at:].split(b"\0") if count else []
    sections = {}
    for prefix, (status, children, length) in zip(prefixes, heads, strict=True):
        statuses = body[edge : edge + children * _STATUS.size]
        names = body[names_at : names_at + length]
        edge, names_at = edge + len(statuses), names_at + length
        sections[prefix] = Section(status, names, statuses)
    return sections


def directory_sha256(archive: ArchiveFile, start: int) -> str:
    """Of the directory of a zip, which begins at `start`, and the end records behind it."""
    return hashlib.sha256(archive.read(start, archive.size - start)).hexdigest()
