"""Walks a tree that a hostile program may have made, or may still be changing.

Every step is taken from an open directory and never through a link, so nothing outside the tree can be
reached whatever is renamed meanwhile. The stack is our own: `os.walk` ends in a RecursionError near 1,000
levels. One descriptor is open per level, and the depth is capped.
"""

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from overnight.archive.model import RESERVED, Caps, Kind, Omission, Part

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ROOT = "."

LeaveOut = Callable[[str, Omission], None]
"""Called with the path as `os.fsdecode` gives it."""


class Node(NamedTuple):
    """Something found. Valid until the walk goes on: then `parent` may be closed.

    `name` is what the archive calls it; `raw` is its name in `parent`, or ROOT. `status` is set for directories,
    and for all if that was asked for.
    """

    parent: int
    raw: str
    name: str
    kind: Kind
    status: os.stat_result | None


class Selection(Protocol):
    """Which files of the workspace belong into its archive."""

    def omission(self, raw: str, path: str, *, is_directory: bool) -> Omission | None:
        """Why not, or None. `raw` is the last component of `path`."""
        ...


class Everything:
    """For a transcript, which is whole whatever is excluded."""

    def omission(self, raw: str, path: str, *, is_directory: bool) -> Omission | None:
        return None


Child = tuple[bytes, Kind | None, os.DirEntry[str]]


class _Level(NamedTuple):
    fd: int
    prefix: str
    room: int
    """Bytes that a name here may have within the longest path."""
    depth: int
    children: Iterator[Child]


@dataclass(frozen=True, slots=True)
class Walk:
    """`look`: take the status of everything, not only of directories."""

    part: Part
    selection: Selection
    caps: Caps
    leave_out: LeaveOut
    look: bool = False

    def __iter__(self) -> Generator[Node, None, None]:
        """In the bytes order of the names in the archive. OSError if the root is no directory."""
        prefix = self.part.prefix
        root = os.open(self.part.root, OPEN_DIRECTORY)
        stack: list[_Level] = []
        try:
            stack.append(self._level(root, prefix, prefix.count("/") + bool(prefix)))
            if prefix:
                yield Node(root, ROOT, prefix, Kind.DIRECTORY, os.fstat(root))
            yield from self._below(stack)
        finally:
            for level in stack:
                os.close(level.fd)

    def _below(self, stack: list[_Level]) -> Iterator[Node]:
        while stack:
            level = stack[-1]
            for key, kind, child in level.children:
                path = f"{level.prefix}/{child.name}" if level.prefix else child.name
                node = self._node(level, path, key, kind, child)
                if node is None:
                    continue
                if kind is not Kind.DIRECTORY:
                    yield node
                    continue
                below = self._enter(level, child.name, path)
                if below is not None:
                    stack.append(below)
                    yield node._replace(status=os.fstat(below.fd))
                    break
            else:
                os.close(stack.pop().fd)

    def _node(
        self, level: _Level, path: str, key: bytes, kind: Kind | None, child: os.DirEntry[str]
    ) -> Node | None:
        omission = self._omission(level, path, key, kind, child.name)
        if omission is None and kind is not None:
            if not self.look or kind is Kind.DIRECTORY:
                return Node(level.fd, child.name, path, kind, None)
            try:
                return Node(level.fd, child.name, path, kind, child.stat(follow_symlinks=False))
            except OSError as error:
                omission = omission_of(error)
        self.leave_out(path, omission or Omission.SPECIAL)
        return None

    def _enter(self, level: _Level, raw: str, path: str) -> _Level | None:
        try:
            return self._level(os.open(raw, OPEN_DIRECTORY, dir_fd=level.fd), path, level.depth + 1)
        except OSError as error:
            self.leave_out(path, omission_of(error))
            return None

    def _level(self, fd: int, path: str, depth: int) -> _Level:
        """Takes the descriptor over: closes it if the directory cannot be listed."""
        try:
            room = self.caps.path_bytes - len(os.fsencode(path)) - 1
            return _Level(fd, path, room, depth, _children(fd))
        except OSError:
            os.close(fd)
            raise

    def _omission(self, level: _Level, path: str, key: bytes, kind: Kind | None, raw: str) -> Omission | None:
        if raw == RESERVED and not level.prefix:
            return Omission.RESERVED
        if level.depth >= self.caps.depth:
            return Omission.TOO_DEEP
        if len(key) > level.room:
            return Omission.TOO_LONG
        return self.selection.omission(raw, path, is_directory=kind is Kind.DIRECTORY)


_OUR_TROUBLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_REPLACED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL})


def omission_of(error: OSError) -> Omission:
    """What a failed look at the tree means. Raises it again when the tree is not to blame."""
    if error.errno in _OUR_TROUBLE:
        raise error
    return Omission.VANISHED if error.errno in _REPLACED else Omission.UNREADABLE


def printable(raw: str) -> str:
    """A file system name as text that JSON and terminals can carry."""
    return raw if raw.isascii() else os.fsencode(raw).decode("utf-8", "backslashreplace")


def _children(fd: int) -> Iterator[Child]:
    """Sorted as their names stand in the archive, where a directory ends in a slash."""
    found: list[Child] = []
    with os.scandir(fd) as listing:
        for child in listing:
            kind = _kind(child)
            key = os.fsencode(child.name)
            found.append((key + b"/" if kind is Kind.DIRECTORY else key, kind, child))
    found.sort(key=_key)
    return iter(found)


def _key(child: Child) -> bytes:
    return child[0]


def _kind(child: os.DirEntry[str]) -> Kind | None:
    """From the listing itself, as a rule without a look at the file."""
    with suppress(OSError):
        if child.is_file(follow_symlinks=False):
            return Kind.FILE
        if child.is_dir(follow_symlinks=False):
            return Kind.DIRECTORY
        if child.is_symlink():
            return Kind.SYMLINK
    return None


def kind_of(mode: int) -> Kind | None:
    return {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK}.get(
        stat.S_IFMT(mode)
    )


class Descent:
    """Goes to places of a tree again, step by step from its root and never through a link."""

    def __init__(self, part: Part) -> None:
        self._prefix = part.prefix
        self._open: list[tuple[str, int]] = [("", os.open(part.root, OPEN_DIRECTORY))]

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def visit(self, nodes: Iterable[tuple[str, Kind]], leave_out: LeaveOut) -> Iterator[Node]:
        """Each is valid until the next; the nodes come in the order of a walk."""
        for name, kind in nodes:
            try:
                yield self._node(name, kind)
            except OSError as error:
                leave_out(name, omission_of(error))

    def _node(self, name: str, kind: Kind) -> Node:
        if name == self._prefix:
            root = self._open[0][1]
            return Node(root, ROOT, name, kind, os.fstat(root))
        path = name.removeprefix(f"{self._prefix}/" if self._prefix else "").split("/")
        parent = self._directory(path[:-1])
        if kind is not Kind.DIRECTORY:
            return Node(parent, path[-1], name, kind, None)
        return Node(parent, path[-1], name, kind, os.fstat(self._directory(path)))

    def _directory(self, path: list[str]) -> int:
        """An open descriptor; those on its way are kept for the next call."""
        shared = 0
        while shared < min(len(path), len(self._open) - 1) and self._open[shared + 1][0] == path[shared]:
            shared += 1
        while len(self._open) > shared + 1:
            os.close(self._open.pop()[1])
        for part in path[shared:]:
            self._open.append((part, os.open(part, OPEN_DIRECTORY, dir_fd=self._open[-1][1])))
        return self._open[-1][1]
