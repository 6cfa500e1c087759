"""What a tree was when its archive was made or restored, so that the next pack can tell what changed.

A record is worth something on its own machine only (inode and ctime), so it lies beside the archive and never
in it, where nobody but us can write. Whoever finds it missing or damaged packs in full.
"""

import hashlib
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from overnight.archive.codec import crc32
from overnight.archive.durable import whole_file
from overnight.archive.layout import NS
from overnight.archive.reader import ArchiveFile

_STATUS = struct.Struct("<QqqQI")
_ONE_STATUS = struct.Struct(f"{_STATUS.size}s")
SETTLED_NS = 2 * NS
"""Clocks of file systems tick every 4 ms to 2 s: a younger change may share its time with a later one."""

_HEAD = struct.Struct("<8sQ32s32sIQL")
_MAGIC = b"onrec01\n"


def status_of(status: os.stat_result) -> bytes:
    """All that tells a changed file, in 36 bytes: size, mtime, ctime, inode and mode.

    Of a directory only mtime and mode: what is in it is looked at by itself, and a move changes its ctime.
    """
    if stat.S_ISDIR(status.st_mode):
        return _packed(0, status.st_mtime_ns, 0, 0, status.st_mode)
    return _packed(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode)


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


def is_young(status: os.stat_result, now_ns: int) -> bool:
    """Whether a later change might not show. `now_ns` is the file system's own time."""
    return max(status.st_mtime_ns, status.st_ctime_ns) >= now_ns - SETTLED_NS


def same_but_for_times_of_change(before: bytes, now: bytes) -> bool:
    """Whether two statuses agree in what an archive keeps: size, mtime and mode."""
    return before[:16] == now[:16] and before[-4:] == now[-4:]


def size_of(status: bytes) -> int:
    return int.from_bytes(status[:8], "little")


@dataclass(frozen=True, slots=True)
class Record:
    """`statuses`: the name of each entry of the tree (raw, no slash at its end) to its `status_of`, or
    `unsure_status_of` if it may have been written to right after it was looked at.

    Entries that are no file of the tree (`.overnight/session.json`) are not in it, nor is the root of a part.
    The directory of a zip holds the names, lengths and checksums of all entries, so `directory_sha256` ties a
    record to its archive without reading all of it again.
    """

    archive_size: int
    archive_sha256: str
    directory_sha256: str
    statuses: Mapping[bytes, bytes]

    def save(self, path: Path) -> None:
        """Whole or not at all, but not forced to the disk: after a power cut a full pack makes a new one."""
        body = b"".join(self.statuses.values()) + b"\0".join(self.statuses)
        head = _HEAD.pack(
            _MAGIC,
            self.archive_size,
            bytes.fromhex(self.archive_sha256),
            bytes.fromhex(self.directory_sha256),
            len(self.statuses),
            len(body),
            crc32(body),
        )
        with whole_file(path, durable=False) as file:
            file.write(head)
            file.write(body)


def load(path: Path) -> Record | None:
    """None if the file is missing or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < _HEAD.size:
        return None
    magic, size, archive_sha256, directory_sha256, count, length, crc = _HEAD.unpack_from(data)
    body = memoryview(data)[_HEAD.size :]
    if magic != _MAGIC or length != len(body) or count * _STATUS.size > length or crc != crc32(body):
        return None
    statuses = _statuses(data, count)
    if statuses is None:
        return None
    return Record(size, archive_sha256.hex(), directory_sha256.hex(), statuses)


def _statuses(data: bytes, count: int) -> dict[bytes, bytes] | None:
    edge = _HEAD.size + count * _STATUS.size
    names = data[edge:].split(b"\0") if count else []
    if len(names) != count:
        return None
    statuses = _ONE_STATUS.iter_unpack(memoryview(data)[_HEAD.size : edge])
    return {name: status for name, (status,) in zip(names, statuses, strict=True)}


def directory_sha256(archive: ArchiveFile, start: int) -> str:
    """Of the directory of a zip, which begins at `start`, and the end records behind it."""
    return hashlib.sha256(archive.read(start, archive.size - start)).hexdigest()
