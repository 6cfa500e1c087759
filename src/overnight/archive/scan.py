"""Looks for secrets in an archive that was just packed: what is looked at is what would be stored."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from overnight.archive.model import KIB, MIB, OWN_CAPS, TRANSCRIPT_PREFIX, Kind
from overnight.archive.reader import ArchiveFile, open_archive, read_directory
from overnight.archive.spans import Span, content, spans
from overnight.archive.walk import printable

LARGEST = MIB
"""Larger files are not looked at, but for the transcript, which holds all that the agent printed."""
MOST = 256 * MIB
"""Bytes looked at in all: a scan takes seconds, whatever an agent wrote."""
OVERLAP = 4 * KIB
"""A secret that lies across two pieces is no longer than this."""
BINARY_WITHIN = 8 * KIB
LISTED = 50

Count = Callable[[str], Counter[str]]
"""How many secrets of each kind are in a text."""


@dataclass(frozen=True, slots=True)
class SecretFound:
    """Never the secret itself."""

    path: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Scan:
    """`found` names the first findings, `found_total` counts all; `whole` says that the limit was not reached."""

    found: tuple[SecretFound, ...]
    found_total: int
    whole: bool


def scan(path: Path, count: Count, *, names: Collection[str] | None = None) -> Scan:
    """Of all entries, or only of those with these `names`: what is new since an archive that was looked at.

    Blocking. Raises ArchiveRefused, OSError.
    """
    found: list[SecretFound] = []
    left = MOST
    with open_archive(path) as archive:
        for span in spans(archive, read_directory(archive, OWN_CAPS)):
            if not _is_looked_at(span):
                continue
            if names is not None and span.record.entry.name not in names:
                continue
            left -= span.record.entry.size
            if left < 0:
                break
            kinds = _kinds_in(archive, span, count)
            name = printable(span.record.name)
            found += [SecretFound(name, kind, kinds[kind]) for kind in sorted(kinds)]
    return Scan(tuple(found[:LISTED]), len(found), left >= 0)


def _is_looked_at(span: Span) -> bool:
    entry = span.record.entry
    talk = entry.name.startswith(f"{TRANSCRIPT_PREFIX}/")
    return entry.kind is Kind.FILE and entry.size > 0 and (talk or entry.size <= LARGEST)


def _kinds_in(archive: ArchiveFile, span: Span, count: Count) -> Counter[str]:
    kinds: Counter[str] = Counter()
    before: str | None = None
    for piece in _pieces(archive, span):
        if before is None and b"\0" in piece[:BINARY_WITHIN]:
            return kinds
        text = (before or "") + piece.decode("utf-8", "replace")
        kinds.update(count(text))
        if before:
            kinds.subtract(count(before))
        before = text[-OVERLAP:]
    return +kinds


def _pieces(archive: ArchiveFile, span: Span) -> Iterator[bytes]:
    """A small file whole, a large one a mebibyte at a time."""
    held: list[bytes] = []
    size = 0
    for step in content(archive, span):
        held.append(step)
        size += len(step)
        if size >= LARGEST:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
