"""Gives a tree to another user: a workspace goes on under the user of its next run."""

import os
from pathlib import Path

from overnight.archive.walk import OPEN_DIRECTORY

Owner = tuple[int, int]
"""Numeric user and group."""


def give_tree(root: Path, owner: Owner) -> None:
    """Everything that is not the owner's yet, for root to call when every process that may write there is dead.

    No link is followed, and a directory is entered from the one above it, never by a path. Two descriptors at most,
    however deep the tree is. What is the owner's already is not touched: its ctime stays. The kernel takes set-id bits
    from a file that changes hands.
    """
    fd = os.open(root, OPEN_DIRECTORY)
    try:
        _give(fd, owner)
        waiting = [_give_children(fd, owner)]
        while waiting:
            if waiting[-1]:
                fd = _step(fd, waiting[-1].pop())
                waiting.append(_give_children(fd, owner))
            else:
                waiting.pop()
                fd = _step(fd, "..") if waiting else fd
    finally:
        os.close(fd)


def _step(fd: int, name: str) -> int:
    """To the directory of this name, in the place of the one that is open."""
    below = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
    os.close(fd)
    return below


def _give(fd: int, owner: Owner) -> None:
    status = os.fstat(fd)
    if (status.st_uid, status.st_gid) != owner:
        os.fchown(fd, *owner)


def _give_children(fd: int, owner: Owner) -> list[str]:
    """Returns the directories among them."""
    directories = []
    with os.scandir(fd) as listing:
        for child in listing:
            status = child.stat(follow_symlinks=False)
            if (status.st_uid, status.st_gid) != owner:
                os.chown(child.name, *owner, dir_fd=fd, follow_symlinks=False)
            if child.is_dir(follow_symlinks=False):
                directories.append(child.name)
    return directories
