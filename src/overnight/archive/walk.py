"""Walks a tree that a hostile program may have made, or may still be changing.

Every step is taken from an open directory and never through a link, so nothing outside the tree can be
reached whatever is renamed meanwhile. The stack is our own: `os.walk` ends in a RecursionError near 1,000
levels. One descriptor is open per level, and the depth is capped.
"""

import errno
import os
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from overnight.archive.model import RESERVED, Caps, Omission, Part

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

LeaveOut = Callable[[str, Omission], None]


@dataclass(frozen=True, slots=True)
class Node:
    """Something found. Valid until the walk goes on: then `parent` may be closed.

    `name` is what the archive calls it, `status` is set for directories only.
    """

    parent: int
    raw: str
    name: str
    status: os.stat_result | None


@dataclass(slots=True)
class _Level:
    fd: int
    prefix: str
    depth: int
    children: Iterator[tuple[bytes, str, bool]] = field(default_factory=lambda: iter(()))


@dataclass(frozen=True, slots=True)
class Walk:
    """The rules of one part: the workspace may exclude names and may not use ours; a transcript is whole."""

    part: Part
    exclude: Collection[str]
    caps: Caps
    leave_out: LeaveOut

    def __iter__(self) -> Generator[Node, None, None]:
        """In the bytes order of the names in the archive. OSError if the root is no directory."""
        root = os.open(self.part.root, OPEN_DIRECTORY)
        stack = [_Level(root, self.part.prefix, self.part.prefix.count("/") + bool(self.part.prefix))]
        try:
            stack[0].children = _children(root)
            if self.part.prefix:
                yield Node(root, ".", self.part.prefix, os.fstat(root))
            yield from self._below(stack)
        finally:
            for level in stack:
                os.close(level.fd)

    def _below(self, stack: list[_Level]) -> Iterator[Node]:
        while stack:
            child = next(stack[-1].children, None)
            if child is None:
                os.close(stack.pop().fd)
                continue
            node = self._node(stack, *child)
            if node is not None:
                yield node

    def _node(self, stack: list[_Level], key: bytes, raw: str, is_directory: bool) -> Node | None:
        level = stack[-1]
        path = f"{level.prefix}/{printable(raw)}" if level.prefix else printable(raw)
        omission = self._omission(level, key, raw)
        if omission is not None:
            self.leave_out(path, omission)
            return None
        if not is_directory:
            return Node(level.fd, raw, path, None)
        below = self._enter(level, raw, path)
        if below is None:
            return None
        stack.append(below)
        return Node(level.fd, raw, path, os.fstat(below.fd))

    def _enter(self, level: _Level, raw: str, name: str) -> _Level | None:
        try:
            fd = os.open(raw, OPEN_DIRECTORY, dir_fd=level.fd)
        except OSError as error:
            self.leave_out(name, omission_of(error))
            return None
        try:
            return _Level(fd, name, level.depth + 1, _children(fd))
        except OSError as error:
            os.close(fd)
            self.leave_out(name, omission_of(error))
            return None

    def _omission(self, level: _Level, key: bytes, raw: str) -> Omission | None:
        if not self.part.prefix and raw in self.exclude:
            return Omission.EXCLUDED
        if not level.prefix and raw == RESERVED:
            return Omission.RESERVED
        if not _is_utf8(key):
            return Omission.NOT_UTF8
        if level.depth >= self.caps.depth:
            return Omission.TOO_DEEP
        if len(level.prefix.encode()) + 1 + len(key) > self.caps.path_bytes:
            return Omission.TOO_LONG
        return None


_OUR_TROUBLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_REPLACED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL})


def omission_of(error: OSError) -> Omission:
    """What a failed look at the tree means. Raises it again when the tree is not to blame."""
    if error.errno in _OUR_TROUBLE:
        raise error
    return Omission.VANISHED if error.errno in _REPLACED else Omission.UNREADABLE


def printable(raw: str) -> str:
    """A file system name as text that JSON and terminals can carry."""
    return os.fsencode(raw).decode("utf-8", "backslashreplace")


def _children(fd: int) -> Iterator[tuple[bytes, str, bool]]:
    """Sorted as their names stand in the archive, where a directory ends in a slash."""
    with os.scandir(fd) as listing:
        found = [(os.fsencode(child.name), child.name, _is_directory(child)) for child in listing]
    return iter(sorted(found, key=lambda child: child[0] + b"/" * child[2]))


def _is_directory(child: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return child.is_dir(follow_symlinks=False)
    return False


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
