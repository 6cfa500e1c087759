"""Reads one file or link of a living tree: bounded, and never through a link."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile

from overnight.archive.codec import DEFLATED, crc32, deflater
from overnight.archive.model import MIB, Kind, Omission
from overnight.archive.walk import Node, omission_of
from overnight.archive.writer import Body, Head, squeezed, stored

READ_WHOLE = 4 * MIB
"""Files up to this size are held in memory; the compressed form of larger ones is spooled."""
BLOCK = MIB
KEPT_MODE = 0o1777
"""Permission bits and sticky. Set-user-id and set-group-id are never carried."""
# O_NONBLOCK: a FIFO that took the file's place must not hang us.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

Spool = SpooledTemporaryFile[bytes]


class Omitted(Exception):
    """This node cannot be stored. Trouble of our own (a full disk) is an OSError, never this."""

    def __init__(self, reason: Omission) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Found:
    """`steady` says that nothing moved between the first look and the last byte."""

    head: Head
    body: Body
    steady: bool


def read_node(node: Node, spool: Spool, *, largest: int) -> Found:
    """Raises Omitted. The body may lie in the spool: write it before the next call."""
    with _source():
        status = os.stat(node.raw, dir_fd=node.parent, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        with _source():
            target = os.readlink(os.fsencode(node.raw), dir_fd=node.parent)
        return Found(head_of(node, Kind.SYMLINK, status), stored(target), steady=True)
    if stat.S_ISDIR(status.st_mode):
        raise Omitted(Omission.VANISHED)  # the walk saw something else here
    if not stat.S_ISREG(status.st_mode):
        raise Omitted(Omission.SPECIAL)
    return _read_file(node, spool, largest)


def head_of(node: Node, kind: Kind, status: os.stat_result) -> Head:
    return Head(node.name, kind, status.st_mode & KEPT_MODE, status.st_mtime_ns)


def _read_file(node: Node, spool: Spool, largest: int) -> Found:
    """A file that grows is cut at the size it had at first; one that shrinks ends early."""
    with _opened(node) as fd:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Omitted(Omission.VANISHED)
        if status.st_size > largest:
            raise Omitted(Omission.TOO_LARGE)
        body = (
            _whole(fd, status.st_size)
            if status.st_size <= READ_WHOLE
            else _spooled(fd, status.st_size, spool)
        )
        steady = body.size == status.st_size and _identity(os.fstat(fd)) == _identity(status)
    return Found(head_of(node, Kind.FILE, status), body, steady)


@contextmanager
def _source() -> Iterator[None]:
    """Around calls that touch the tree only: what fails there is a fact about the tree."""
    try:
        yield
    except OSError as error:
        raise Omitted(omission_of(error)) from error


@contextmanager
def _opened(node: Node) -> Iterator[int]:
    with _source():
        fd = os.open(node.raw, _OPEN_FILE, dir_fd=node.parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _whole(fd: int, size: int) -> Body:
    return squeezed(b"".join(_blocks(fd, size)))


def _spooled(fd: int, size: int, spool: Spool) -> Body:
    """Compressed aside first, so that the header can say the lengths and a second try costs nothing."""
    spool.seek(0)
    spool.truncate()
    deflate = deflater()
    crc = read = 0
    for block in _blocks(fd, size):
        crc = crc32(block, crc)
        read += len(block)
        spool.write(deflate.compress(block))
    spool.write(deflate.flush())
    return Body(DEFLATED, crc, read, spool.tell(), _rewound(spool))


def _rewound(spool: Spool) -> Iterator[bytes]:
    spool.seek(0)
    while block := spool.read(BLOCK):
        yield block


def _blocks(fd: int, size: int) -> Iterator[bytes]:
    left = size
    while left > 0:
        with _source():
            block = os.read(fd, min(BLOCK, left))
        if not block:
            return
        left -= len(block)
        yield block
