"""Patterns of gitignore, by a library, within bounds: anyone may have written them."""

import re
from collections.abc import Sequence

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

MOST_PATTERNS = 200
"""Each is tried on each file: about half a microsecond."""
LONGEST = 400
MOST_GLOBSTARS = 2
"""`**` in one pattern. Each multiplies the places where the rest may begin."""

_STAR = "[^/]*"
_ANY = "[^/]"


def parse(lines: Sequence[str]) -> tuple[GitIgnoreSpec | None, int]:
    """The patterns, if there are any, and how many lines were dropped: not understood, or beyond the bounds."""
    patterns = [pattern for line in lines[:MOST_PATTERNS] if (pattern := _pattern(line))]
    return GitIgnoreSpec(patterns) if patterns else None, len(lines) - len(patterns)


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
