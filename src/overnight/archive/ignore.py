"""What of a workspace is not kept: names by setting, and patterns by a file that anyone may have written."""

import os
import stat
from collections.abc import Collection, KeysView
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overnight.archive.model import IGNORE_FILE, KIB, Omission, Part
from overnight.archive.walk import Everything, Selection, open_root

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

LARGEST = 64 * KIB

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Exclusion:
    names: frozenset[str]
    patterns: "GitIgnoreSpec | None"
    note: str = ""

    def omission(self, raw: str, path: bytes, *, is_directory: bool) -> Omission | None:
        if raw in self.names:
            return Omission.EXCLUDED
        if self.patterns is None:
            return None
        name = os.fsdecode(path + b"/" if is_directory else path)
        return Omission.IGNORED if self.patterns.match_file(name) else None

    def unwanted(self, prefix: bytes, files: KeysView[str]) -> Collection[str]:
        if self.patterns is None:
            return files & self.names
        return [raw for raw in files if self.omission(raw, prefix + os.fsencode(raw), is_directory=False)]


def selection_of(part: Part, exclude: Collection[str]) -> tuple[Selection, str]:
    """What of a part is kept, and a note on what was not understood. Raises OSError if its root is no directory."""
    if part.prefix:
        return Everything(), ""
    exclusion = read_exclusion(part, exclude)
    return exclusion, exclusion.note


def read_exclusion(part: Part, exclude: Collection[str]) -> Exclusion:
    names = frozenset(exclude)
    content = _content_of(part)
    if content is None:
        return Exclusion(names, None)
    if len(content) > LARGEST:
        return Exclusion(names, None, f"{IGNORE_FILE} has more than {LARGEST} bytes and was not applied")
    return _parsed(names, os.fsdecode(content).splitlines())


def _content_of(part: Part) -> bytes | None:
    """None if there is no such file. One byte more than is allowed, at most."""
    root = open_root(part)
    try:
        with suppress(OSError):
            fd = os.open(IGNORE_FILE, _OPEN_FILE, dir_fd=root)
            with os.fdopen(fd, "rb") as file:
                return file.read(LARGEST + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else None
        return None
    finally:
        os.close(root)


def _parsed(names: frozenset[str], lines: list[str]) -> Exclusion:
    from overnight.archive.patterns import parse  # noqa: PLC0415 - a quarter of what our package takes to import

    wanted = [line for line in lines if line.strip() and not line.startswith("#")]
    patterns, dropped = parse(wanted)
    note = f"{dropped} lines of {IGNORE_FILE} were not applied" if dropped else ""
    return Exclusion(names, patterns, note)
