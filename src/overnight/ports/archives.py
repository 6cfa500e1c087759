"""Where archives are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArchive:
    """`size` in bytes, `sha256` in lower-case hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedArchive:
    """A line of a listing: `size` in bytes, `stored_at` in Unix seconds by the store's clock."""

    name: str
    size: int
    stored_at: float


class ArchiveMissing(Exception):
    """There is surely no such archive. Anything less sure (a refusal, a timeout) is another error."""

    def __init__(self) -> None:
        super().__init__("There is no archive of that name.")


class ArchiveConflict(Exception):
    """The name is taken by other bytes: archives are immutable."""

    def __init__(self) -> None:
        super().__init__("An archive of that name is already stored, with other content.")


class ArchiveDenied(OSError):
    """A key, a policy or a bucket is wrong: trying again does not help before the operator has acted.

    The message names what is wrong and the remedy, and can be shown to the operator.
    """


class ArchiveTooLarge(OSError):
    """The store takes nothing larger than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The archive store takes no more than {limit} bytes in one archive.")
        self.limit = limit


class Growth(Protocol):
    """The progress of a file that is written front to back, by someone else, and only appended to."""

    async def beyond(self, size: int) -> tuple[int, bool]:
        """(bytes written so far, whether that is all), once it is more than `size` or all of it.

        Raises what broke the writing: then what was stored of it must not become visible.
        """
        ...


async def whole(growth: Growth | None) -> None:
    """Returns once all is written; raises what broke the writing. For stores that cannot begin earlier."""
    size, done = 0, growth is None
    while growth is not None and not done:
        size, done = await growth.beyond(size)


class ArchiveStore(Protocol):
    """Where archives are kept, under names like `claude-code/{session_id}/{job_id}.{attempt}.zip`."""

    async def put(self, name: str, source: Path, *, growth: Growth | None = None) -> StoredArchive:
        """Durable and whole on return; never half there under its name. The same bytes again are fine.

        The source may be moved. With `growth` it is still being written: a store that can sends what is there
        already. Raises ArchiveConflict, ArchiveTooLarge, OSError, and whatever `growth` raises.
        """
        ...

    async def fetch(self, name: str, target: Path) -> StoredArchive:
        """Write the archive to `target`. Raises ArchiveMissing, OSError."""
        ...

    async def part(self, name: str, *, start: int, length: int) -> bytes:
        """`length` of its bytes from `start` on, in memory; nothing of the rest is transferred. `length` is at least 1,
        and they lie inside the archive: of one that is shorter than it was fewer come, or OSError. Not checked
        against what was put. Raises ArchiveMissing, OSError."""
        ...

    async def publish(self, name: str, alias: str) -> None:
        """Let `alias` show this archive too, replacing what it showed, atomically. Raises ArchiveMissing."""
        ...

    async def delete(self, name: str) -> None:
        """Idempotent. On return no listing shows it. Raises OSError, also if the store only pretends."""
        ...

    async def listing(self, prefix: str) -> Sequence[ListedArchive]:
        """All whose name begins with `prefix`, sorted by name, aliases included."""
        ...
