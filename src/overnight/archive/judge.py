"""Phase one: the whole archive is judged before a byte of it is written (facts: security 7.1)."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from overnight.archive import layout
from overnight.archive.codec import DEFLATED, STORED
from overnight.archive.model import (
    KIB,
    RESERVED,
    TRANSCRIPT_PREFIX,
    ArchiveRefused,
    Caps,
    Kind,
    Profile,
    Refusal,
)
from overnight.archive.reader import ArchiveFile, Directory, Record, damaged, read_directory
from overnight.archive.spans import Span, content, spans

_KNOWN_FLAGS = layout.FLAG_DEFLATE_SPEED | layout.FLAG_DESCRIPTOR | layout.FLAG_UTF8
_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
_RATIO_FROM = 64 * KIB
_NO_PARTS = frozenset({"", ".", ".."})
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Judged:
    """Spans in the order of the file, and what each link points to, by the name of the link.

    The directory of the zip begins at `directory_start`.
    """

    spans: list[Span]
    targets: dict[str, bytes]
    directory_start: int

    @property
    def content_bytes(self) -> int:
        return sum(span.record.size for span in self.spans)


def judge(archive: ArchiveFile, profile: Profile) -> Judged:
    """Raises ArchiveRefused."""
    return judge_all(archive, read_directory(archive, profile.caps, stranger=profile.stranger), profile)


def judge_all(archive: ArchiveFile, directory: Directory, profile: Profile) -> Judged:
    """The archive of this directory. Raises ArchiveRefused."""
    for record in directory.records:
        _judge_form(record)
        _judge_size(record, profile.caps)
        _judge_name(record, profile)
    if sum(record.size for record in directory.records) > profile.caps.content_bytes:
        raise _refused(
            Refusal.TOO_LARGE, f"It holds more than {profile.caps.content_bytes} bytes of content."
        )
    _judge_tree(directory.records, profile)
    placed = spans(archive, directory)
    return Judged(placed, _link_targets(archive, placed, profile), directory.start)


def judge_entry(directory: Directory, record: Record, caps: Caps) -> None:
    """Whether one entry alone may be read. Raises ArchiveRefused."""
    _judge_form(record)
    _judge_size(record, caps)
    if sum(other.name == record.name for other in directory.records) > 1:
        raise _refused(Refusal.CLASHING_NAMES, "Two entries have the same name.")


def _refused(code: Refusal, sentence: str) -> ArchiveRefused:
    return ArchiveRefused(code, f"{sentence} Nothing was written.")


def _judge_form(record: Record) -> None:
    if record.flags & _ENCRYPTED:
        raise _refused(Refusal.UNSUPPORTED, f"Entry {record.number} is encrypted.")
    if record.method not in {STORED, DEFLATED} or record.flags & ~_KNOWN_FLAGS:
        message = f"Entry {record.number} is neither stored nor deflated: pack it again with an ordinary zip."
        raise _refused(Refusal.UNSUPPORTED, message)
    if record.method == STORED and record.compressed_size != record.size:
        raise damaged(f"entry {record.number} has two lengths")
    if record.kind is Kind.DIRECTORY and record.size:
        raise damaged(f"entry {record.number} is a directory with content")


def _judge_size(record: Record, caps: Caps) -> None:
    size = record.size
    if size > caps.file_bytes:
        raise _refused(Refusal.TOO_LARGE, f"Entry {record.number} has more than {caps.file_bytes} bytes.")
    if caps.ratio and size > _RATIO_FROM and size > caps.ratio * record.compressed_size:
        raise _refused(Refusal.TOO_LARGE, f"Entry {record.number} grows more than {caps.ratio} times.")
    if record.kind is Kind.SYMLINK and not 0 < size <= caps.link_bytes:
        raise _refused(Refusal.UNSAFE_LINK, f"Entry {record.number} is a link of an impossible length.")


def _judge_name(record: Record, profile: Profile) -> None:
    fault = _name_fault(record.name, profile)
    if fault:
        raise _refused(Refusal.UNSAFE_NAME, f"The name of entry {record.number} {fault}.")


def _name_fault(name: str, profile: Profile) -> str | None:
    caps, parts = profile.caps, name.split("/")
    if "\0" in name:
        return "holds a NUL"
    if not _NO_PARTS.isdisjoint(parts):
        return "is absolute" if name.startswith("/") else "has an empty part, or `.` or `..`"
    size = _length(name)
    if len(parts) > caps.depth or size > caps.path_bytes:
        return f"has more than {caps.depth} levels or {caps.path_bytes} bytes"
    if size > caps.component_bytes and any(_length(part) > caps.component_bytes for part in parts):
        return f"has a part of more than {caps.component_bytes} bytes"
    if profile.stranger and (_CONTROL.search(name) or "\\" in name or _DRIVE.match(name)):
        return "holds a control character, a backslash or a drive"
    return None


def _length(name: str) -> int:
    return len(name) if name.isascii() else len(os.fsencode(name))


def _judge_tree(records: list[Record], profile: Profile) -> None:
    """One nature per name, only directories above others; a stranger's names must differ on any system."""
    kinds = {record.name: record.kind for record in records}
    if len(kinds) != len(records):
        raise _refused(Refusal.CLASHING_NAMES, "Two entries have the same name.")
    implied: set[str] = set()
    for record in records:
        for parent in _parents(record.name):
            if parent in implied:
                break  # and so are those above it
            if kinds.get(parent, Kind.DIRECTORY) is not Kind.DIRECTORY:
                message = f"Entry {record.number} lies below something that is no directory."
                raise _refused(Refusal.CLASHING_NAMES, message)
            implied.add(parent)
            if len(implied) > profile.caps.entries:
                break
    names = kinds.keys() | implied
    if len(names) > profile.caps.entries:
        raise _refused(Refusal.TOO_LARGE, f"It makes more than {profile.caps.entries} files and directories.")
    if profile.stranger and len({_folded(name) for name in names}) != len(names):
        raise _refused(Refusal.CLASHING_NAMES, "Two names differ only in case or in the form of an accent.")


def _parents(name: str) -> Iterator[str]:
    """Innermost first."""
    while (cut := name.rfind("/")) > 0:
        name = name[:cut]
        yield name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _link_targets(archive: ArchiveFile, placed: Iterable[Span], profile: Profile) -> dict[str, bytes]:
    links = [span for span in placed if span.record.kind is Kind.SYMLINK]
    names = {_folded(span.record.name) for span in links}
    targets = {}
    for span in links:
        target = b"".join(content(archive, span))
        if b"\0" in target:
            raise _refused(Refusal.UNSAFE_LINK, f"Entry {span.record.number} is a link with a NUL.")
        if profile.stranger and not _stays_inside(
            span.record.name, target, names, most=2 * profile.caps.depth
        ):
            message = (
                f"Entry {span.record.number} is a link that is absolute, leads out, or passes another link."
            )
            raise _refused(Refusal.UNSAFE_LINK, message)
        targets[span.record.name] = target
    return targets


def _stays_inside(name: str, raw_target: bytes, links: set[str], *, most: int) -> bool:
    """Whether a link leads to a place inside its own part, reckoned by its text alone. One of more than `most` steps
    counts as one that leads out: every step is looked up, and no tree is so deep.

    The text tells the truth only if no step but the last goes through another link: with `a -> d/e`,
    `a/..` is not the root.
    """
    part = _part_of(name)
    here = name.removeprefix(part).split("/")[:-1]
    try:
        target = raw_target.decode()
    except UnicodeDecodeError:
        return False
    if target.startswith("/") or _CONTROL.search(target) or "\\" in target or target.count("/") >= most:
        return False
    for step in target.split("/"):
        if step in {"", "."}:
            continue
        if _folded(part + "/".join(here)) in links:
            return False
        if step != "..":
            here.append(step)
        elif here:
            here.pop()
        else:
            return False
    return True


def _part_of(name: str) -> str:
    """The prefix that a link may not leave: each part is restored into a place of its own."""
    for prefix in (TRANSCRIPT_PREFIX, RESERVED):
        if name.startswith(f"{prefix}/"):
            return f"{prefix}/"
    return ""
