"""What a kept tree has to do with its archive: whether it is still the same, and making it the same."""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from overnight.archive.compare import ByStatus
from overnight.archive.ignore import selection_of
from overnight.archive.model import DEFAULT_EXCLUDE, OWN_CAPS, Omission, Part
from overnight.archive.record import load
from overnight.archive.trees import remove_tree
from overnight.archive.walk import ROOT, LeaveOut, Node, Sift, Walk


def unchanged(record: Path, parts: Sequence[Part], exclude: Collection[str] = DEFAULT_EXCLUDE) -> bool:
    """Whether a pack of the trees would hold just what the archive of the record holds.

    What a pack leaves out is not looked at: `prune` removes it. False without a record. Raises OSError.
    """
    known = load(record)
    if known is None:
        return False
    comparison = ByStatus(known)
    found = (node for part in parts for node in _nodes(part, exclude, _nothing, comparison.sift))
    return all(comparison.is_same(node) for node in found) and comparison.all_same


def prune(parts: Sequence[Part], exclude: Collection[str] = DEFAULT_EXCLUDE) -> None:
    """Deletes what a pack leaves out, so that a kept tree equals a restored one. Raises OSError.

    Call it when every process that may write there is dead. Links are removed, never followed, and the times of
    directories stay as they were.
    """
    for part in parts:
        left_out: list[str] = []

        def leave_out(name: str, omission: Omission, into: list[str] = left_out) -> None:
            if omission is not Omission.VANISHED:
                into.append(name)

        for _ in _nodes(part, exclude, leave_out):
            pass
        for name in left_out:
            _remove(part.root / name.removeprefix(f"{part.prefix}/" if part.prefix else ""))


def _remove(path: Path) -> None:
    before = path.parent.lstat()
    remove_tree(path)
    os.utime(path.parent, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def _nodes(
    part: Part, exclude: Collection[str], leave_out: LeaveOut, sift: Sift | None = None
) -> Iterator[Node]:
    """Of all that a pack takes, without the root of the part."""
    selection, _ = selection_of(part, exclude)
    with closing(iter(Walk(part, selection, OWN_CAPS, leave_out, sift))) as nodes:
        for node in nodes:
            if node.raw != ROOT:
                yield node


def _nothing(name: str, omission: Omission) -> None:
    """What a pack leaves out makes no difference between a tree and its archive."""
