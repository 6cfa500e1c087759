"""The words of the archive: what goes in, what comes out, what is refused."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

RESERVED = ".overnight"
"""The top-level name that holds what is ours; a workspace's own file of that name is left out."""
SESSION_ENTRY = f"{RESERVED}/session.json"
TRANSCRIPT_PREFIX = f"{RESERVED}/transcript"
IGNORE_FILE = ".overnightignore"
"""In the root of the workspace, in the syntax of .gitignore: what is not kept."""
DEFAULT_EXCLUDE = frozenset({".git", "node_modules", ".cache", "dist"})

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Kind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


class Refusal(StrEnum):
    """Why an archive was not read, or a tree not packed."""

    NOT_A_ZIP = "not_a_zip"
    DAMAGED = "damaged"
    UNSUPPORTED = "unsupported"
    TOO_LARGE = "too_large"
    UNSAFE_NAME = "unsafe_name"
    CLASHING_NAMES = "clashing_names"
    UNSAFE_LINK = "unsafe_link"
    SPECIAL_FILE = "special_file"


class ArchiveRefused(Exception):
    """Bad input: nothing was written. The message never repeats a name from the archive."""

    def __init__(self, reason_code: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason_code = reason_code


class EntryMissing(LookupError):
    """The archive holds no regular file of exactly that name."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Bounds in bytes, entries and levels. Directories that names only imply count as entries.

    The defaults are those of the fact sheet for strangers' archives (security 7.1).
    """

    archive_bytes: int = 512 * MIB
    directory_bytes: int = 64 * MIB
    entries: int = 20_000
    file_bytes: int = 512 * MIB
    content_bytes: int = 2 * GIB
    ratio: int | None = 1000
    """Content to compressed size, for files over 64 KiB; None where a sparse file is legal."""
    depth: int = 64
    component_bytes: int = 255
    path_bytes: int = 3800
    link_bytes: int = 4096
    session_bytes: int = MIB


OWN_CAPS = Caps(
    archive_bytes=32 * GIB,
    directory_bytes=512 * MIB,
    entries=1_000_000,
    file_bytes=16 * GIB,
    content_bytes=64 * GIB,
    ratio=None,
)


@dataclass(frozen=True, slots=True)
class Profile:
    """Whose archive it is. A stranger's must also be portable, keep its links inside, and gets plain modes."""

    stranger: bool
    caps: Caps


OWN = Profile(stranger=False, caps=OWN_CAPS)
UPLOAD = Profile(stranger=True, caps=Caps())


@dataclass(frozen=True, slots=True)
class Part:
    """A tree to pack: all below `root`, named `prefix/...`; the prefix "" is the workspace.

    `within`: a directory above it, below which a run may have put links on the way: they are not followed.
    """

    root: Path
    prefix: str
    within: Path | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """An archive to copy unchanged entries from, and the record of the tree that it was packed from or restored to.

    The archive must be one that was checked against its SHA-256, and made by `pack`.
    """

    archive: Path
    record: Path


class Range(NamedTuple):
    """Bytes of a base that an archive takes over as they are."""

    offset: int
    length: int


class Check(StrEnum):
    """What tells an unchanged file: all of its status, or size, mtime and mode and every byte of its content."""

    STATUS = "status"
    CONTENT = "content"


class Omission(StrEnum):
    """Why a file of the tree is not in its archive."""

    EXCLUDED = "excluded"
    IGNORED = "ignored by .overnightignore"
    RESERVED = "reserved name"
    SPECIAL = "not a file, directory or link"
    UNREADABLE = "unreadable"
    VANISHED = "vanished or replaced while being read"
    TOO_DEEP = "too many levels"
    TOO_LONG = "path too long"
    TOO_LARGE = "file too large"


@dataclass(frozen=True, slots=True)
class LeftOut:
    path: str
    reason: Omission


@dataclass(frozen=True, slots=True)
class Packed:
    """`left_out` and `changed` name the first 100 paths; the totals count all.

    A changed file moved under the reader twice: it was stored as read the second time. `reused_entries` were
    copied from the base as they lay there; `fresh_bytes` is what was made anew. `incremental` says that there
    was a base and it fitted. `sha256` is None if the target is an Assembly, which is not given every byte;
    `directory_sha256` is that of the zip's directory and what follows it. `ignore_note` says what of
    `.overnightignore` was not applied.
    """

    entries: int
    size: int
    content_bytes: int
    sha256: str | None
    directory_sha256: str
    left_out: tuple[LeftOut, ...]
    left_out_total: int
    changed: tuple[str, ...]
    changed_total: int
    reused_entries: int = 0
    fresh_bytes: int = 0
    incremental: bool = False
    ignore_note: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing. A directory's name carries no slash at its end."""

    name: str
    kind: Kind
    size: int
    mode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Listing:
    entries: tuple[Entry, ...]
    size: int
    content_bytes: int


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What was written; `session` is the content of `.overnight/session.json`, if there was one."""

    entries: int
    content_bytes: int
    session: bytes | None
