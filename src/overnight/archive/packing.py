"""One pack at work: what is kept of the base, what is read from the trees, and the report on it."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from overnight.archive.base import OldArchive
from overnight.archive.compare import ByContent, ByStatus, Comparison
from overnight.archive.ignore import selection_of
from overnight.archive.layout import DOS_FIRST, NS
from overnight.archive.model import Caps, Check, Kind, LeftOut, Omission, Packed, Part, Range
from overnight.archive.output import Output, too_large
from overnight.archive.reading import read_in_order
from overnight.archive.record import Record, Recording
from overnight.archive.source import FoundLarge, Reader
from overnight.archive.walk import ROOT, Descent, Node, Sift, Walk, open_root, printable
from overnight.archive.writer import EMPTY, Body, Head, ZipWriter, squeezed

LISTED = 100
"""Paths named in a report; the rest is only counted."""
_PRIVATE_FILE, _PRIVATE_DIRECTORY = 0o600, 0o700
_NO_MTIME_NS = DOS_FIRST * NS
"""For entries that are no file of the tree: the earliest date every unzip can show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`live_since_ns`: something may still write to the trees; the file system's time at the beginning."""

    exclude: Collection[str]
    limits: Caps
    check: Check
    live_since_ns: int | None


T = TypeVar("T")
Place = tuple[bytes, Kind]


class _Report(Generic[T]):
    """The first lines of a list, and how many there were."""

    def __init__(self) -> None:
        self.first: list[T] = []
        self.total = 0

    def add(self, line: T) -> None:
        self.total += 1
        if len(self.first) < LISTED:
            self.first.append(line)


class Packing:
    def __init__(self, output: Output, rules: Rules, old: OldArchive | None, pool: Executor) -> None:
        self._output = output
        self._rules = rules
        self._old = old
        self._pool = pool
        self._writer = ZipWriter(output)
        self._reader = Reader(rules.limits.file_bytes, rules.live_since_ns, old.content if old else None)
        self._left_out = _Report[LeftOut]()
        self._changed = _Report[str]()
        self._content_bytes = 0
        self._reused_entries = 0
        self._copied_bytes = 0
        self._ignore_note = ""
        self._recording = Recording()

    def add_all(self, parts: Sequence[Part], entries: Mapping[str, bytes]) -> None:
        """From a base come its unchanged entries first, as they lay there; then ours, then the trees."""
        if self._old is None:
            self._add_entries(parts, entries)
            for part in parts:
                self._add_nodes(part, self._walk(part))
            return
        fresh = self._keep(self._old, parts)
        self._add_entries(parts, entries)
        for part, places in zip(parts, fresh, strict=True):
            with closing(Descent(open_root(part), part.prefix)) as descent:
                self._add_nodes(part, descent.visit(places, self._leave_out))

    def finish(self) -> tuple[Packed, Record]:
        directory_sha256 = self._writer.finish()
        sha256, size = self._output.finish(), self._writer.position
        packed = Packed(
            entries=self._writer.entries,
            size=size,
            content_bytes=self._content_bytes,
            sha256=sha256,
            directory_sha256=directory_sha256,
            left_out=tuple(self._left_out.first),
            left_out_total=self._left_out.total,
            changed=tuple(self._changed.first),
            changed_total=self._changed.total,
            reused_entries=self._reused_entries,
            fresh_bytes=size - self._copied_bytes,
            incremental=self._old is not None,
            ignore_note=self._ignore_note,
        )
        return packed, Record(size, sha256, directory_sha256, self._recording.sections())

    def _walk(self, part: Part, sift: Sift | None = None) -> Walk:
        selection, note = selection_of(part, self._rules.exclude)
        self._ignore_note = self._ignore_note or note
        return Walk(part, selection, self._rules.limits, self._leave_out, sift)

    def _keep(self, old: OldArchive, parts: Sequence[Part]) -> list[list[Place]]:
        """Copies the entries that are unchanged; returns, for each part, the others of its tree."""
        by_content = self._rules.check is Check.CONTENT
        comparison = ByContent(old) if by_content else ByStatus(old.record)
        fresh = [self._differing(part, comparison) for part in parts]
        for run in old.runs(comparison.same):
            moved = old.moved(run, self._writer.position)
            self._writer.adopt(Range(run.offset, run.length), moved, run.end - run.first)
            self._copied_bytes += run.length
        comparison.note(self._recording)
        self._content_bytes = self._recording.content_bytes()
        self._reused_entries = self._writer.entries
        self._check_limits()
        return fresh

    def _differing(self, part: Part, comparison: Comparison) -> list[Place]:
        most, places = self._rules.limits.entries, list[Place]()
        with closing(iter(self._walk(part, comparison.sift))) as nodes:
            for node in nodes:
                if not comparison.is_same(node):
                    places.append((node.path, node.kind))
                    if len(places) > most:
                        raise too_large("entries", most)
        return places

    def _add_entries(self, parts: Sequence[Part], entries: Mapping[str, bytes]) -> None:
        """Ours; every directory that they and the prefixes imply is said."""
        names = (*entries, *(part.prefix for part in parts))
        parents = {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}
        for name in sorted(parents - {part.prefix for part in parts}, key=os.fsencode):
            self._add(Head(name, Kind.DIRECTORY, _PRIVATE_DIRECTORY, _NO_MTIME_NS), EMPTY)
        for name in sorted(entries, key=os.fsencode):
            self._add(Head(name, Kind.FILE, _PRIVATE_FILE, _NO_MTIME_NS), squeezed(entries[name]))

    def _add_nodes(self, part: Part, nodes: Iterable[Node]) -> None:
        with closing(read_in_order(part, self._reader, nodes)) as outcomes:
            for node, found in outcomes:
                if isinstance(found, Omission):
                    self._leave_out(node.name, found)
                elif isinstance(found, FoundLarge):
                    self._add_large(node, found)
                else:
                    self._add(found.head, found.body)
                    self._note(node, found.status, steady=found.steady)

    def _add_large(self, node: Node, found: FoundLarge) -> None:
        with closing(found.content) as content:
            self._writer.add_stream(found.head, content, content.chunks(self._pool))
            self._content_bytes += content.size
            self._copied_bytes += content.reused_bytes
            self._check_limits()
            steady = content.steady
        self._note(node, self._reader.recorded(found.status, steady=steady), steady=steady)

    def _add(self, head: Head, body: Body) -> None:
        self._content_bytes += body.size
        self._writer.add(head, body)
        self._check_limits()

    def _check_limits(self) -> None:
        limits = self._rules.limits
        if self._writer.entries > limits.entries:
            raise too_large("entries", limits.entries)
        if self._content_bytes > limits.content_bytes:
            raise too_large("bytes of content", limits.content_bytes)
        if self._writer.directory_bytes > limits.directory_bytes:
            raise too_large("bytes of names", limits.directory_bytes)

    def _note(self, node: Node, status: bytes, *, steady: bool) -> None:
        if not steady:
            self._changed.add(printable(node.name))
        if node.raw != ROOT:
            self._recording.add(node.path, status)

    def _leave_out(self, path: str, reason: Omission) -> None:
        self._left_out.add(LeftOut(printable(path), reason))
