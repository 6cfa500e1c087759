"""Looks into an archive without unpacking it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from overnight.archive.judge import judge
from overnight.archive.model import OWN, Entry, EntryMissing, Kind, Listing, Profile
from overnight.archive.reader import ArchiveFile, open_archive, read_directory
from overnight.archive.spans import Span, content
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
    try:
        records = read_directory(_End(end, size), OWN.caps).records
    except _Earlier as earlier:
        return earlier.offset
    return Listing(tuple(record.entry for record in records), size, sum(record.size for record in records))


def read_entry(path: Path, name: str, *, profile: Profile = OWN) -> EntryContent:
    """One regular file, by its exact name or, if that is not UTF-8, as `printable` shows it.

    Raises EntryMissing, ArchiveRefused.
    """
    with ExitStack() as resources:
        archive = resources.enter_context(open_archive(path))
        files = [span for span in judge(archive, profile).spans if span.record.kind is Kind.FILE]
        span = _first(files, lambda found: found == name) or _first(
            files, lambda found: printable(found) == name
        )
        if span is not None:
            return EntryContent(span.record.entry, content(archive, span), resources.pop_all())
    raise EntryMissing("The archive has no file of that name.")


def _first(files: Iterable[Span], fits: Callable[[str], bool]) -> Span | None:
    return next((span for span in files if fits(span.record.name)), None)
