"""Looks into an archive without unpacking it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from overnight.archive.judge import judge, judge_entry
from overnight.archive.model import OWN, Entry, EntryMissing, Kind, Listing, Profile
from overnight.archive.reader import ArchiveFile, Directory, Record, damaged, open_archive, read_directory
from overnight.archive.spans import content, span_of
from overnight.archive.walk import printable


class EntryContent:
    """The bytes of one file, in chunks; holds the archive open until it is read to its end or closed.

    Reading raises ArchiveRefused, at the latest after the last chunk, if the content is not what the
    archive declares.
    """

    def __init__(self, entry: Entry, chunks: Iterator[bytes], resources: ExitStack) -> None:
        self.entry = entry
        self._chunks = chunks
        self._resources = resources

    @property
    def size(self) -> int:
        return self.entry.size

    def __iter__(self) -> Iterator[bytes]:
        with self._resources:
            yield from self._chunks

    def close(self) -> None:
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def inspect(path: Path, *, profile: Profile = OWN) -> Listing:
    """All entries, in the order of the archive. Raises ArchiveRefused."""
    with open_archive(path) as archive:
        judged = judge(archive, profile)
        entries = tuple(span.record.entry for span in judged.spans)
        return Listing(entries, archive.size, judged.content_bytes)


class _End(ArchiveFile):
    """The end of an archive of `size` bytes, of which the rest is elsewhere."""

    def __init__(self, end: bytes, size: int) -> None:
        self.size = size
        self._end = end
        self._start = size - len(end)

    def read(self, offset: int, length: int) -> bytes:
        if offset < self._start:
            raise _Earlier(offset)
        return self._end[offset - self._start :][:length]


class _Earlier(Exception):
    """What is wanted begins at `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


def inspect_end(end: bytes, size: int) -> Listing | int:
    """The same as `inspect` of one of our own archives, from its last bytes; or from which offset on they are needed.

    Only the directory is looked at, and not whether the content agrees with it. Raises ArchiveRefused.
    """
    directory = _directory_at(end, size)
    if isinstance(directory, int):
        return directory
    records = directory.records
    return Listing(tuple(record.entry for record in records), size, sum(record.size for record in records))


@dataclass(frozen=True, slots=True)
class Place:
    """The bytes [start, end) of an archive are all of one entry, with its local header."""

    record: Record
    start: int
    end: int


def locate(end: bytes, size: int, name: str) -> Place | int:
    """Where one regular file lies, named as for `read_entry`, by the archive's last bytes; or from which offset on
    they are needed. Raises EntryMissing, ArchiveRefused."""
    directory = _directory_at(end, size)
    if isinstance(directory, int):
        return directory
    record = _named(name, directory.records)
    judge_entry(directory, record, OWN.caps)
    start = record.header_offset
    later = (other.header_offset for other in directory.records if other.header_offset > start)
    edge = min([directory.start, *later])
    if edge <= start:
        raise damaged(f"entry {record.number} lies behind the entries")
    return Place(record, start, edge)


def read_place(path: Path, place: Place) -> EntryContent:
    """The same as `read_entry`, from a file that holds the bytes of the place only. Raises ArchiveRefused."""
    with ExitStack() as resources:
        archive = resources.enter_context(open_archive(path, place.start))
        span = span_of(archive, place.record, place.end)
        return EntryContent(place.record.entry, content(archive, span), resources.pop_all())


def _directory_at(end: bytes, size: int) -> Directory | int:
    try:
        return read_directory(_End(end, size), OWN.caps)
    except _Earlier as earlier:
        return earlier.offset


def read_entry(path: Path, name: str, *, profile: Profile = OWN) -> EntryContent:
    """One regular file, by its exact name or, if that is not UTF-8, as `printable` shows it.

    Raises EntryMissing, ArchiveRefused.
    """
    with ExitStack() as resources:
        archive = resources.enter_context(open_archive(path))
        placed = judge(archive, profile).spans
        record = _named(name, (span.record for span in placed))
        span = next(span for span in placed if span.record is record)
        return EntryContent(record.entry, content(archive, span), resources.pop_all())


def _named(name: str, records: Iterable[Record]) -> Record:
    """Raises EntryMissing."""
    files = [record for record in records if record.kind is Kind.FILE]
    record = _first(files, lambda found: found == name) or _first(
        files, lambda found: printable(found) == name
    )
    if record is None:
        raise EntryMissing("The archive has no file of that name.")
    return record


def _first(files: Iterable[Record], fits: Callable[[str], bool]) -> Record | None:
    return next((record for record in files if fits(record.name)), None)
