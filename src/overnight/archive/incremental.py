"""What a kept tree has to do with its archive: whether it is still the same, and making it the same."""

from collections.abc import Collection, Sequence
from pathlib import Path

from overnight.archive.model import DEFAULT_EXCLUDE, Part


def unchanged(record: Path, parts: Sequence[Part], exclude: Collection[str] = DEFAULT_EXCLUDE) -> bool:
    """Whether the trees are exactly what the archive of the record holds. Raises OSError."""
    raise NotImplementedError


def prune(parts: Sequence[Part], exclude: Collection[str] = DEFAULT_EXCLUDE) -> None:
    """Deletes what a pack leaves out, so that a kept tree equals a restored one. Raises OSError."""
    raise NotImplementedError
