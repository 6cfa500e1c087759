"""Removes a tree of any depth, whatever its modes, and never follows a link out of it."""

import itertools
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from overnight.archive.walk import OPEN_DIRECTORY

_MOVED_UP = ".removing-"


def remove_tree(path: Path) -> None:
    """No error if nothing is there. Call it when every process that may write there is dead.

    Directories found inside are first moved up to the root, so 5,000 levels need two descriptors and
    no recursion (`shutil.rmtree` ends in a RecursionError near 1,000).
    """
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
        path.chmod(0o700)
    except FileNotFoundError:
        return
    root = os.open(path, OPEN_DIRECTORY)
    try:
        _empty(root)
    finally:
        os.close(root)
    path.rmdir()


def _empty(root: int) -> None:
    waiting = deque(_unlink_files(root))
    fresh = _fresh_names(root)
    while waiting:
        name = waiting.popleft()
        # Only directories come here, and nobody else writes: chmod cannot meet a link.
        os.chmod(name, 0o700, dir_fd=root)
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=root)
        try:
            for child in _unlink_files(fd):
                waiting.append(_move_up(root, fd, child, next(fresh)))
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=root)


def _unlink_files(fd: int) -> list[str]:
    """Returns the directories that remain."""
    with os.scandir(fd) as listing:
        children = [(child.name, child.is_dir(follow_symlinks=False)) for child in listing]
    for name, is_directory in children:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
    return [name for name, is_directory in children if is_directory]


def _move_up(root: int, parent: int, child: str, name: str) -> str:
    os.chmod(child, 0o700, dir_fd=parent)  # one may only move a directory that one may write to
    os.rename(child, name, src_dir_fd=parent, dst_dir_fd=root)
    return name


def _fresh_names(root: int) -> Iterator[str]:
    for number in itertools.count():
        name = f"{_MOVED_UP}{number}"
        try:
            os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            yield name
