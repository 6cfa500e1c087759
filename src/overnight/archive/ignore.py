"""What of a workspace is not kept: names by setting, and patterns by a file that anyone may have written."""

import os
import re
import stat
from collections.abc import Collection, KeysView
from contextlib import suppress
from dataclasses import dataclass

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from overnight.archive.model import IGNORE_FILE, KIB, Omission, Part
from overnight.archive.walk import Everything, Selection, open_root

LARGEST = 64 * KIB
MOST_PATTERNS = 200
"""Each is tried on each file: about half a microsecond."""
LONGEST = 400
MOST_GLOBSTARS = 2
"""`**` in one pattern. Each multiplies the places where the rest may begin."""

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_STAR = "[^/]*"
_ANY = "[^/]"


@dataclass(frozen=True, slots=True)
class Exclusion:
    names: frozenset[str]
    patterns: GitIgnoreSpec | None
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
    wanted = [line for line in lines if line.strip() and not line.startswith("#")]
    patterns = [pattern for line in wanted[:MOST_PATTERNS] if (pattern := _pattern(line))]
    dropped = len(wanted) - len(patterns)
    note = f"{dropped} lines of {IGNORE_FILE} were not applied" if dropped else ""
    return Exclusion(names, GitIgnoreSpec(patterns) if patterns else None, note)


def _pattern(line: str) -> GitIgnoreSpecPattern | None:
    if len(line) > LONGEST or line.split("/").count("**") > MOST_GLOBSTARS:
        return None
    try:
        pattern = _LinearPattern(line)
    except (ValueError, re.error, FutureWarning):
        return None
    return pattern if pattern.include is not None else None


class _LinearPattern(GitIgnoreSpecPattern):
    @classmethod
    def pattern_to_regex(cls, pattern):  # type: ignore[no-untyped-def]  # as generic as the library's, which we only wrap
        regex, include = super().pattern_to_regex(pattern)
        return (linear(regex) if isinstance(regex, str) else regex), include


def linear(regex: str) -> str:
    """The same without backtracking from star to star: `*a*a*a*b` would take the third power of a name's length.

    All but the last star of a component may take as little as they can and never look back (atomic groups).
    """
    first, *rest = regex.split(_STAR)
    stars = []
    for number, piece in enumerate(rest):
        goes_on = number + 1 < len(rest) and "/" not in piece.replace(_ANY, "")
        stars.append(f"(?>{_STAR}?{piece})" if goes_on else f"{_STAR}{piece}")
    return first + "".join(stars)
