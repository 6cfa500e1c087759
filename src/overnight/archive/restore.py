"""Writes one part of an archive: always from an open directory, and never through a link."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from overnight.archive.hands import Hand, Line, share_out
from overnight.archive.helper import Helper, HelperLost
from overnight.archive.model import MIB, Kind
from overnight.archive.reader import ArchiveFile, Record
from overnight.archive.spans import Span, batches, is_small
from overnight.archive.walk import OPEN_DIRECTORY
from overnight.archive.wire import spans_to, written_from
from overnight.archive.writing import FileWriter, Manner, Reach, clash, path_below

_HUGE = 256 * MIB
"""A helper writes no larger file: it says nothing meanwhile (`SILENT_SECONDS`), and a disk may be slow."""

Turn = tuple[int, list[Span]]


@dataclass(frozen=True, slots=True)
class Restore:
    """All entries to restore must be below the prefix. The helper, if there is one, has no order yet."""

    root: Path
    archive: ArchiveFile
    manner: Manner
    prefix: str
    helper: Helper | None = None

    def run(self, share: list[Span], targets: Mapping[str, bytes]) -> None:
        """Directories first, then files: a second thread writes the large ones.

        Links come after all files and before the modes of directories, which may forbid writing. The root
        changes hands last: until then a new owner cannot reach in and move things about.
        """
        made = self._directories(share)
        with closing(self._reach()) as reach:
            for path in sorted(made):
                _make_directory(reach, path)
            self._write_files([span for span in share if span.record.kind is Kind.FILE])
            for span in share:
                if span.record.kind is Kind.SYMLINK:
                    self._write_link(reach, span.record, targets[span.record.name])
            for path in sorted(made, reverse=True):  # what lies inside comes first
                self.manner.finish(reach.directory(path), made[path])
            self.manner.finish(reach.directory(""), None)

    def _directories(self, share: Iterable[Span]) -> dict[str, Record | None]:
        """By path: those with an entry of their own, and those that only names imply."""
        found: dict[str, Record | None] = {}
        for record, _ in share:
            path = path_below(self.prefix, record)
            if record.kind is Kind.DIRECTORY:
                found[path] = record
            while (path := path.rpartition("/")[0]) and path not in found:
                found[path] = None
        return found

    def _write_files(self, files: list[Span]) -> None:
        """Small ones keep an interpreter busy. The helper begins with the large ones, so that no other thread is in
        the way of the caller's meanwhile, and a thread of ours has the huge ones."""
        small, large, huge = _lines(files)
        with ExitStack() as resources:
            own, second, *further = [self._writer(resources) for _ in range(4)]
            others = [Hand(second.write, [huge] if self.helper else [large, huge])]
            if self.helper:
                self._give_order(self.helper)
                first, ahead = [_Helped(self.helper, writer).write for writer in further]
                others += [Hand(first, [large, small]), Hand(ahead, [small])]
            share_out(Hand(own.write, [small, large, huge]), others)

    def _writer(self, resources: ExitStack) -> FileWriter:
        reach = resources.enter_context(closing(self._reach()))
        return FileWriter(self.archive, self.manner, self.prefix, reach)

    def _reach(self) -> Reach:
        return Reach(os.open(self.root, OPEN_DIRECTORY))

    def _give_order(self, helper: Helper) -> None:
        manner = self.manner
        order = {
            "prefix": self.prefix,
            "plain_modes": manner.plain_modes,
            "fresh_times": manner.fresh_times,
            "owner": manner.owner,
            "recorded": manner.statuses is not None,
        }
        root = os.open(self.root, OPEN_DIRECTORY)
        try:
            archive = self.archive.duplicate()
        except OSError:
            os.close(root)
            raise
        helper.order("write", order, {"root": root, "archive": archive})

    def _write_link(self, reach: Reach, record: Record, target: bytes) -> None:
        parent, _, leaf = path_below(self.prefix, record).rpartition("/")
        directory = reach.directory(parent)
        try:
            os.symlink(target, os.fsencode(leaf), dir_fd=directory)
        except OSError as error:
            raise clash(error) from error
        self.manner.finish_link(directory, leaf, record)


def _lines(files: Iterable[Span]) -> Iterator[Line[list[Span]]]:
    """Batches of small files, large ones, and those whose writing a helper might be silent about for too long."""
    found: tuple[list[Turn], list[Turn], list[Turn]] = ([], [], [])
    for number, batch in enumerate(batches(files)):
        record = batch[0].record
        found[0 if is_small(record) else 1 if record.size <= _HUGE else 2].append((number, batch))
    return map(iter, found)


class _Helped:
    """Has a helper write, or does it itself where that never began."""

    def __init__(self, helper: Helper, writer: FileWriter) -> None:
        self._helper = helper
        self._writer = writer
        self._began: bool | None = None

    def write(self, batch: list[Span]) -> None:
        """Raises as a FileWriter does."""
        if self._began is None:
            self._began = self._has_begun()
        if not self._began:
            self._writer.write(batch)
            return
        try:
            answer = self._helper.ask(spans_to(batch))
        except HelperLost:  # with files half written
            raise OSError(errno.EIO, "The second process of a restore has ended") from None
        written = written_from(answer)
        statuses = self._writer.manner.statuses
        if statuses is not None:
            statuses.update(zip((span.record.raw_name for span in batch), written, strict=True))

    def _has_begun(self) -> bool:
        try:
            written_from(self._helper.ask(spans_to([])))
        except HelperLost:
            return False
        return True


def _make_directory(reach: Reach, path: str) -> None:
    parent, _, leaf = path.rpartition("/")
    try:
        os.mkdir(leaf, 0o700, dir_fd=reach.directory(parent))
    except OSError as error:
        raise clash(error) from error
