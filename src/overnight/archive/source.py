"""Reads one file or link of a living tree: bounded, and never through a link."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from overnight.archive.blocks import BLOCK, LargeContent, LargeFile, OldBlocks
from overnight.archive.model import MIB, Kind, Omission
from overnight.archive.record import as_recorded
from overnight.archive.walk import Node, kind_of, omission_of
from overnight.archive.writer import EMPTY, Body, Head, squeezed, stored

READ_WHOLE = 4 * MIB
"""Files up to this size are held in memory; larger ones go through in blocks."""
KEPT_MODE = 0o1777
"""Permission bits and sticky. Set-user-id and set-group-id are never carried."""
# O_NONBLOCK: a FIFO that took the file's place must not hang us.
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


OldContent = Callable[[bytes], OldBlocks | None]
"""By the path of a file in the archive."""


class Omitted(Exception):
    """This node cannot be stored. Trouble of our own (a full disk) is an OSError, never this."""

    def __init__(self, reason: Omission) -> None:
        super().__init__(reason)
        self.reason = reason


class Found(NamedTuple):
    """`status` is from before the first byte was read; `steady` says that nothing moved until the last one."""

    head: Head
    body: Body
    status: os.stat_result
    steady: bool


class FoundLarge(NamedTuple):
    """Read while it is written; whether it was steady is known then. Close it."""

    head: Head
    content: LargeContent
    status: os.stat_result


class Read(NamedTuple):
    """`status`: as it goes into the record of the pack."""

    head: Head
    body: Body
    steady: bool
    status: bytes


@dataclass(frozen=True, slots=True)
class Reader:
    """`largest`: bytes of a file. `live_since_ns`: something may still write to the tree; the file system's time at
    the beginning. `old` gives the content of a file as the base has it, whose first blocks may serve again."""

    largest: int
    live_since_ns: int | None
    old: OldContent | None = None

    def read(self, node: Node) -> Read | FoundLarge | Omission:
        if node.status is not None and node.kind is Kind.DIRECTORY:
            head = head_of(node, Kind.DIRECTORY, node.status)
            return Read(head, EMPTY, True, self.recorded(node.status, steady=True))
        try:
            found = _read_twice(node, self.largest, self.old)
        except Omitted as omitted:
            return omitted.reason
        if isinstance(found, FoundLarge):
            return found
        return Read(found.head, found.body, found.steady, self.recorded(found.status, steady=found.steady))

    def recorded(self, status: os.stat_result, *, steady: bool) -> bytes:
        return as_recorded(status, steady=steady, live_since_ns=self.live_since_ns)


def _read_twice(node: Node, largest: int, old: OldContent | None) -> Found | FoundLarge:
    """What moved under the first reading gets a second one, and that one counts."""
    try:
        found = read_node(node, largest=largest, old=old)
        if isinstance(found, FoundLarge) or found.steady:
            return found
    except Omitted as omitted:
        if omitted.reason is not Omission.VANISHED:
            raise
    return read_node(look_again(node), largest=largest, old=old)


def read_node(node: Node, *, largest: int, old: OldContent | None) -> Found | FoundLarge:
    """Raises Omitted."""
    if node.kind is Kind.SYMLINK:
        return _read_link(node)
    try:
        fd = os.open(node.raw, OPEN_FILE, dir_fd=node.parent)
    except OSError as error:
        raise Omitted(omission_of(error)) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Omitted(Omission.VANISHED)
        if status.st_size > largest:
            raise Omitted(Omission.TOO_LARGE)
        head = head_of(node, Kind.FILE, status)
        if status.st_size <= READ_WHOLE:
            return _whole(fd, head, status)
        content = LargeContent(LargeFile(fd, status), old(node.path) if old else None)
        fd = -1  # taken over
        return FoundLarge(head, content, status)
    finally:
        if fd >= 0:
            os.close(fd)


def look_again(node: Node) -> Node:
    """The node as what it is now. Raises Omitted if it is nothing that can be stored."""
    with _source():
        status = os.stat(node.raw, dir_fd=node.parent, follow_symlinks=False)
    kind = kind_of(status.st_mode)
    if kind is None:
        raise Omitted(Omission.SPECIAL)
    if kind is Kind.DIRECTORY:
        raise Omitted(Omission.VANISHED)  # the walk saw something else here
    return node._replace(kind=kind)


def head_of(node: Node, kind: Kind, status: os.stat_result) -> Head:
    return Head(node.name, kind, status.st_mode & KEPT_MODE, status.st_mtime_ns)


def _read_link(node: Node) -> Found:
    with _source():
        status = os.stat(node.raw, dir_fd=node.parent, follow_symlinks=False)
        target = os.readlink(os.fsencode(node.raw), dir_fd=node.parent)
    return Found(head_of(node, Kind.SYMLINK, status), stored(target), status, steady=True)


def _whole(fd: int, head: Head, status: os.stat_result) -> Found:
    """A file that grows is cut at the size it had at first; one that shrinks ends early."""
    try:
        content = os.read(fd, status.st_size)
        if len(content) < status.st_size:
            content += b"".join(_rest(fd, status.st_size - len(content)))
        now = os.fstat(fd)
    except OSError as error:
        raise Omitted(omission_of(error)) from error
    steady = (
        len(content) == status.st_size == now.st_size
        and now.st_mtime_ns == status.st_mtime_ns
        and now.st_ctime_ns == status.st_ctime_ns
    )
    return Found(head, squeezed(content), status, steady)


def _rest(fd: int, left: int) -> Iterator[bytes]:
    while left > 0:
        block = os.read(fd, min(BLOCK, left))
        if not block:
            return
        left -= len(block)
        yield block


@contextmanager
def _source() -> Iterator[None]:
    """Around calls that touch the tree only: what fails there is a fact about the tree."""
    try:
        yield
    except OSError as error:
        raise Omitted(omission_of(error)) from error
