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
"""Larger files are passed over by a scan within limits, but for the transcript, which holds all that the agent
printed."""
MOST = 256 * MIB
"""Bytes that a scan within limits looks at: it takes seconds, whatever an agent wrote."""
PIECE = MIB
"""Bytes of a file that are looked at at a time."""
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
    """`found` names the first findings, `found_total` counts all; `whole` says that no limit was reached."""

    found: tuple[SecretFound, ...]
    found_total: int
    whole: bool


def scan(path: Path, count: Count, *, names: Collection[str] | None = None, all_of_it: bool = False) -> Scan:
    """Of all entries, or only of those with these `names`: what is new since an archive that was looked at.

    Within limits it looks at text files of up to LARGEST, at the transcript, and at MOST bytes together;
    with `all_of_it` at every byte of every file, at names and at what links point to: nothing that an agent puts
    before a secret hides it then.

    Blocking. Raises ArchiveRefused, OSError, and what `count` raises.
    """
    found: list[SecretFound] = []
    left = MOST
    with open_archive(path) as archive:
        for span in spans(archive, read_directory(archive, OWN_CAPS)):
            if not (all_of_it or _is_within_limits(span)):
                continue
            if names is not None and span.record.entry.name not in names:
                continue
            left -= span.record.entry.size
            if left < 0 and not all_of_it:
                return _scan_of(found, whole=False)
            kinds = _kinds_in(archive, span, count, programs_too=all_of_it)
            if all_of_it:
                kinds += count(span.record.name)
            name = printable(span.record.name)
            found += [SecretFound(name, kind, kinds[kind]) for kind in sorted(kinds)]
    return _scan_of(found, whole=True)


def _scan_of(found: list[SecretFound], *, whole: bool) -> Scan:
    return Scan(tuple(found[:LISTED]), len(found), whole)


def _is_within_limits(span: Span) -> bool:
    entry = span.record.entry
    talk = entry.name.startswith(f"{TRANSCRIPT_PREFIX}/")
    return entry.kind is Kind.FILE and entry.size > 0 and (talk or entry.size <= LARGEST)


def _kinds_in(archive: ArchiveFile, span: Span, count: Count, *, programs_too: bool) -> Counter[str]:
    kinds: Counter[str] = Counter()
    before: str | None = None
    for piece in _pieces(archive, span):
        if before is None and not programs_too and b"\0" in piece[:BINARY_WITHIN]:
            return kinds
        # A zero ends a string of a program, as a line ends: a pattern must not reach from one into the next.
        text = (before or "") + piece.decode("utf-8", "replace").replace("\0", "\n")
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
        if size >= PIECE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
