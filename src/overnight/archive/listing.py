"""Looks into an archive without unpacking it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from overnight.archive.judge import judge
from overnight.archive.model import OWN, Entry, EntryMissing, Kind, Listing, Profile
from overnight.archive.reader import open_archive
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
