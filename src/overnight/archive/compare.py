"""Which entries of a record a tree still holds as they were: by their status, or by every byte.

Both mark what they found in `same`, a flag for each of `Record.names()`.
"""

import os
from collections.abc import Collection, Iterator
from typing import Protocol

from overnight.archive.base import OldArchive, OldContent
from overnight.archive.blocks import BLOCK
from overnight.archive.codec import STORED, CodecError, inflater
from overnight.archive.model import Kind
from overnight.archive.record import (
    NOT_AN_ENTRY,
    Record,
    Recording,
    Section,
    chosen,
    fields_of,
    is_as_recorded,
    same_but_for_times_of_change,
    status_of,
)
from overnight.archive.source import OPEN_FILE
from overnight.archive.walk import ROOT, Listing, Node, Selection


class Comparison(Protocol):
    same: bytearray

    def sift(self, prefix: bytes, listing: Listing, selection: Selection) -> Listing:
        """As the walk wants it: marks what it can tell from a listing, and returns the other children."""
        ...

    def is_same(self, node: Node) -> bool:
        """Of what the walk found; marks it."""
        ...

    def note(self, recording: Recording) -> None:
        """The statuses of all that is marked."""
        ...


class ByStatus:
    """The fast one: a directory at a time, and without a step of the walk for a file that is as it was."""

    def __init__(self, record: Record) -> None:
        self._sections = record.sections
        self._starts: dict[bytes, int] = {}
        at = 0
        for prefix, section in record.sections.items():
            self._starts[prefix] = at + section.is_entry
            at += section.is_entry + section.children
        self.same = bytearray(at)

    @property
    def all_same(self) -> bool:
        return all(self.same)

    def sift(self, prefix: bytes, listing: Listing, selection: Selection) -> Listing:
        section = self._sections.get(prefix)
        if section is None:
            return listing
        known = section.fields()
        for name in selection.unwanted(prefix, known.keys()):
            known[name] = None
        directories: list[os.DirEntry[str]] = []
        differing: list[os.DirEntry[str]] = []
        for child in listing:
            try:
                if child.is_dir(follow_symlinks=False):
                    directories.append(child)
                    continue
                before, now = known.pop(child.name, None), child.stat(follow_symlinks=False)
                if before == fields_of(now) or is_as_recorded(before, now):
                    continue
            except OSError:
                pass  # the walk looks again, and says what is wrong
            differing.append(child)
        self._mark(prefix, section, {*known, *(child.name for child in differing)})
        return directories + differing

    def _mark(self, prefix: bytes, section: Section, but: Collection[str]) -> None:
        start, count = self._starts[prefix], section.children
        self.same[start : start + count] = b"\1" * count
        if but:
            for number, name in enumerate(section.raw_names(), start):
                self.same[number] = os.fsdecode(name) not in but

    def is_same(self, node: Node) -> bool:
        """Only of directories: a file that comes here was not sifted out."""
        section = self._sections.get(node.path + b"/")
        if (
            section is None
            or node.status is None
            or node.raw == ROOT
            or section.status != status_of(node.status)
        ):
            return False
        self.same[self._starts[node.path + b"/"] - 1] = 1
        return True

    def note(self, recording: Recording) -> None:
        for prefix, section in self._sections.items():
            start, end = self._starts[prefix], self._starts[prefix] + section.children
            some = section
            if self.same.count(1, start, end) < section.children:
                some = chosen(section, self.same[start:end])
            own = section.is_entry and self.same[start - 1]
            recording.add_section(prefix, some._replace(status=section.status if own else NOT_AN_ENTRY))


class ByContent:
    """For a tree that was copied: what `Check.CONTENT` says. Every file is read."""

    def __init__(self, old: OldArchive) -> None:
        self._old = old
        self._before = old.record.statuses
        self._numbers = {name: number for number, name in enumerate(old.record.names())}
        self._now: dict[bytes, bytes] = {}
        self.same = bytearray(len(self._numbers))

    def sift(self, prefix: bytes, listing: Listing, selection: Selection) -> Listing:
        return listing

    def is_same(self, node: Node) -> bool:
        before = self._before.get(node.path)
        if before is None or node.raw == ROOT:
            return False
        try:
            now = status_of(node.status or os.stat(node.raw, dir_fd=node.parent, follow_symlinks=False))
        except OSError:
            return False
        if not self._same_inside(node, before, now):
            return False
        self._now[node.path] = now
        self.same[self._numbers[node.path]] = 1
        return True

    def note(self, recording: Recording) -> None:
        for name, status in self._now.items():
            recording.add(name, status)

    def _same_inside(self, node: Node, before: bytes, now: bytes) -> bool:
        """Links and directories have no content but what their status tells."""
        if node.kind is not Kind.FILE:
            return before == now
        content = self._old.content(node.path)
        return (
            content is not None and same_but_for_times_of_change(before, now) and same_content(node, content)
        )


def same_content(node: Node, old: OldContent) -> bool:
    """Every byte, since a checksum can be forged. False too if it cannot be read: it is looked at again when packed."""
    try:
        fd = os.open(node.raw, OPEN_FILE, dir_fd=node.parent)
        with os.fdopen(fd, "rb") as file:
            return all(file.read(len(piece)) == piece for piece in _pieces(old)) and not file.read(1)
    except (OSError, CodecError):
        return False


def _pieces(old: OldContent) -> Iterator[bytes]:
    engine = inflater() if old.method != STORED else None
    for offset in range(0, old.compressed_size, BLOCK):
        pending = old.read(offset, BLOCK)
        if engine is None:
            yield pending
            continue
        while pending and not engine.eof:
            yield engine.decompress(pending, BLOCK)
            pending = engine.unconsumed_tail
    while engine is not None and not engine.eof:
        rest = engine.decompress(b"", BLOCK)
        if not rest and not engine.eof:
            raise CodecError("it ends too early")
        yield rest
