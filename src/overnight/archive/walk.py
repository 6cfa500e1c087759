"""Walks a tree that a hostile program may have made, or may still be changing.

Every step is taken from an open directory and never through a link, so nothing outside the tree can be
reached whatever is renamed meanwhile. The stack is our own: `os.walk` ends in a RecursionError near 1,000
levels. One descriptor is open per level, and the depth is capped.
"""

import errno
import os
import stat
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, KeysView
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from overnight.archive.model import RESERVED, Caps, Kind, Omission, Part

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ROOT = "."
NAME_MAX = 255
"""Bytes of one component that a file system takes."""
_AS_FSENCODE = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
"""`os.fsencode` without its checks, which take as long as the rest of a step of the walk."""

LeaveOut = Callable[[str, Omission], None]
"""Called with the path as `os.fsdecode` gives it."""


class Node(NamedTuple):
    """Something found. Valid until the walk goes on: then `parent` may be closed.

    `path` is what the archive calls it, without a slash at its end; `raw` is its name in `parent`, or ROOT.
    `status` is set for directories.
    """

    parent: int
    raw: str
    path: bytes
    kind: Kind
    status: os.stat_result | None

    @property
    def name(self) -> str:
        return os.fsdecode(self.path)


class Selection(Protocol):
    """Which files of the workspace belong into its archive."""

    def omission(self, raw: str, path: bytes, *, is_directory: bool) -> Omission | None:
        """Why not, or None. `raw` is the last component of `path`."""
        ...

    def unwanted(self, prefix: bytes, files: KeysView[str]) -> Collection[str]:
        """Those with an omission among the files and links of one directory, for all of them at once."""
        ...


class Everything:
    """For a transcript, which is whole whatever is excluded."""

    def omission(self, raw: str, path: bytes, *, is_directory: bool) -> Omission | None:
        return None

    def unwanted(self, prefix: bytes, files: KeysView[str]) -> Collection[str]:
        return ()


Listing = Iterable[os.DirEntry[str]]
Sift = Callable[[bytes, Listing, Selection], Listing]
"""Takes the name of a directory, with a slash behind, and its children; returns those that the walk must look at."""

Child = tuple[bytes, Kind | None, os.DirEntry[str]]


class _Level(NamedTuple):
    """An open directory; `prefix` is its name with a slash behind, or empty."""

    fd: int
    prefix: bytes
    depth: int
    children: Iterator[Child]


@dataclass(frozen=True, slots=True)
class Walk:
    """With `sift`, all that it does not return is passed over."""

    part: Part
    selection: Selection
    caps: Caps
    leave_out: LeaveOut
    sift: Sift | None = None

    def __iter__(self) -> Generator[Node, None, None]:
        """In the bytes order of the names in the archive. OSError if the root is no directory."""
        prefix = os.fsencode(self.part.prefix)
        root = open_root(self.part)
        stack: list[_Level] = []
        try:
            stack.append(self._level(root, prefix and prefix + b"/", prefix.count(b"/") + bool(prefix)))
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
                if kind is Kind.DIRECTORY:
                    below = self._enter(level, key, child.name)
                    if below is not None:
                        stack.append(below)
                        yield Node(level.fd, child.name, below.prefix[:-1], kind, os.fstat(below.fd))
                        break
                    continue
                node = self._node(level, level.prefix + key, kind, child)
                if node is not None:
                    yield node
            else:
                os.close(stack.pop().fd)

    def _node(self, level: _Level, path: bytes, kind: Kind | None, child: os.DirEntry[str]) -> Node | None:
        omission = self._omission(level, child.name, path, is_directory=False)
        if omission is None and kind is not None:
            return Node(level.fd, child.name, path, kind, None)
        self.leave_out(os.fsdecode(path), omission or Omission.SPECIAL)
        return None

    def _enter(self, level: _Level, key: bytes, raw: str) -> _Level | None:
        prefix = level.prefix + key
        omission = self._omission(level, raw, prefix[:-1], is_directory=True)
        try:
            if omission is None:
                fd = os.open(raw, OPEN_DIRECTORY, dir_fd=level.fd)
                return self._level(fd, prefix, level.depth + 1)
        except OSError as error:
            omission = omission_of(error)
        self.leave_out(os.fsdecode(prefix[:-1]), omission)
        return None

    def _level(self, fd: int, prefix: bytes, depth: int) -> _Level:
        """Takes the descriptor over: closes it if the directory cannot be listed."""
        try:
            with os.scandir(fd) as listing:
                return _Level(fd, prefix, depth, _sorted(self._sifted(listing, prefix, depth)))
        except OSError:
            os.close(fd)
            raise

    def _sifted(self, listing: Listing, prefix: bytes, depth: int) -> Listing:
        """What would be left out for its place is for the walk to tell of."""
        if self.sift is None or depth >= self.caps.depth or len(prefix) + NAME_MAX > self.caps.path_bytes:
            return listing
        return self.sift(prefix, listing, self.selection)

    def _omission(self, level: _Level, raw: str, path: bytes, *, is_directory: bool) -> Omission | None:
        if not level.prefix and raw == RESERVED:
            return Omission.RESERVED
        if level.depth >= self.caps.depth:
            return Omission.TOO_DEEP
        if len(path) > self.caps.path_bytes:
            return Omission.TOO_LONG
        return self.selection.omission(raw, path, is_directory=is_directory)


_OUR_TROUBLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE})
_REPLACED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL})


def open_root(part: Part) -> int:
    """OSError if it is no directory, or if there is a link where a run could have put one."""
    above = part.within or part.root
    fd = os.open(above, OPEN_DIRECTORY)
    for step in part.root.relative_to(above).parts:
        try:
            below = os.open(step, OPEN_DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def is_there(part: Part) -> bool:
    """Whether its root can be opened, without a link on the way below `within`. Raises OSError if it cannot be told."""
    try:
        os.close(open_root(part))
    except OSError as error:
        omission_of(error)  # raises it again if the tree is not to blame
        return False
    return True


def omission_of(error: OSError) -> Omission:
    """What a failed look at the tree means. Raises it again when the tree is not to blame."""
    if error.errno in _OUR_TROUBLE:
        raise error
    return Omission.VANISHED if error.errno in _REPLACED else Omission.UNREADABLE


def printable(raw: str) -> str:
    """A file system name as text that JSON and terminals can carry."""
    return raw if raw.isascii() else os.fsencode(raw).decode("utf-8", "backslashreplace")


def _sorted(children: Listing) -> Iterator[Child]:
    """As their names stand in the archive, where a directory ends in a slash."""
    found: list[Child] = []
    for child in children:
        kind = _kind(child)
        key = child.name.encode(*_AS_FSENCODE)
        found.append((key + b"/" if kind is Kind.DIRECTORY else key, kind, child))
    found.sort(key=_key)
    return iter(found)


def _key(child: Child) -> bytes:
    return child[0]


def _kind(child: os.DirEntry[str]) -> Kind | None:
    """From the listing itself, as a rule without a look at the file."""
    try:
        if child.is_file(follow_symlinks=False):
            return Kind.FILE
        if child.is_dir(follow_symlinks=False):
            return Kind.DIRECTORY
        return Kind.SYMLINK if child.is_symlink() else None
    except OSError:
        return None


def kind_of(mode: int) -> Kind | None:
    return {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK}.get(
        stat.S_IFMT(mode)
    )


class Descent:
    """Goes to places of a tree again, step by step from its root and never through a link."""

    def __init__(self, root: int, prefix: str) -> None:
        """Takes the open root of a part over."""
        self._prefix = os.fsencode(prefix)
        self._open: list[tuple[bytes, int]] = [(b"", root)]

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def visit(self, places: Iterable[tuple[bytes, Kind]], leave_out: LeaveOut) -> Iterator[Node]:
        """As `node`, for one after another."""
        for path, kind in places:
            node = self.node(path, kind)
            if isinstance(node, Omission):
                leave_out(os.fsdecode(path), node)
            else:
                yield node

    def node(self, path: bytes, kind: Kind) -> Node | Omission:
        """Valid until the next. In the order of a walk no directory is opened twice. OSError if we are to blame."""
        try:
            return self._node(path, kind)
        except OSError as error:
            return omission_of(error)

    def _node(self, path: bytes, kind: Kind) -> Node:
        if path == self._prefix:
            root = self._open[0][1]
            return Node(root, ROOT, path, kind, os.fstat(root))
        steps = path.removeprefix(self._prefix and self._prefix + b"/").split(b"/")
        parent, raw = self._directory(steps[:-1]), os.fsdecode(steps[-1])
        status = os.fstat(self._directory(steps)) if kind is Kind.DIRECTORY else None
        return Node(parent, raw, path, kind, status)

    def _directory(self, steps: list[bytes]) -> int:
        """An open descriptor; those on its way are kept for the next call."""
        shared = 0
        while shared < min(len(steps), len(self._open) - 1) and self._open[shared + 1][0] == steps[shared]:
            shared += 1
        while len(self._open) > shared + 1:
            os.close(self._open.pop()[1])
        for step in steps[shared:]:
            self._open.append((step, os.open(step, OPEN_DIRECTORY, dir_fd=self._open[-1][1])))
        return self._open[-1][1]
