"""Restores an archive: judged first, written aside, then moved into place in one step."""

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from overnight.archive.judge import Judged, judge
from overnight.archive.model import (
    OWN,
    RESERVED,
    SESSION_ENTRY,
    TRANSCRIPT_PREFIX,
    ArchiveRefused,
    Entry,
    Kind,
    Profile,
    Refusal,
    Unpacked,
)
from overnight.archive.reader import ArchiveFile, open_archive
from overnight.archive.spans import Span, content
from overnight.archive.trees import remove_tree
from overnight.archive.walk import OPEN_DIRECTORY

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CANNOT_HOLD = frozenset({errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ})


Owner = tuple[int, int]
"""Numeric user and group."""


def unpack(
    path: Path, routes: Mapping[str, Path], *, profile: Profile = OWN, owner: Owner | None = None
) -> Unpacked:
    """Writes each part of the archive to the directory its prefix is routed to.

    "" is the workspace; parts without a route and unknown entries below `.overnight/` are skipped. Every
    target is a new directory of mode 0700 afterwards (an empty one may stand there before), beside which
    the work is done. Transcripts get fresh mtimes: Claude Code deletes old ones (facts: claude-code 4).
    With an `owner` all that is written is theirs, the targets too; that needs the right to give files away.
    Raises ArchiveRefused for bad input, OSError for trouble of our own; nothing is left in both cases.
    Nothing is fsynced: after a power cut a workspace is made again from its archive.
    """
    with open_archive(path) as archive:
        judged = judge(archive, profile)
        session = _session(archive, judged, profile)
        with _staged(routes) as places:
            shares = _shares(judged, routes)
            for prefix, share in shares.items():
                restore = _Restore(
                    places[prefix], archive, profile, fresh=prefix == TRANSCRIPT_PREFIX, owner=owner
                )
                with closing(restore):
                    restore.run(share, judged.targets)
        kept = [span.record.entry for share in shares.values() for _, span in share]
        return Unpacked(len(kept), sum(entry.size for entry in kept), session)


def _session(archive: ArchiveFile, judged: Judged, profile: Profile) -> bytes | None:
    for span in judged.spans:
        entry = span.record.entry
        if entry.name == SESSION_ENTRY and entry.kind is Kind.FILE:
            if entry.size > profile.caps.session_bytes:
                message = (
                    f"{SESSION_ENTRY} has more than {profile.caps.session_bytes} bytes. Nothing was written."
                )
                raise ArchiveRefused(Refusal.TOO_LARGE, message)
            return b"".join(content(archive, span))
    return None


Share = list[tuple[tuple[bytes, ...], Span]]
"""What goes to one target, each with its path there."""


def _shares(judged: Judged, routes: Mapping[str, Path]) -> dict[str, Share]:
    shares: dict[str, Share] = {prefix: [] for prefix in routes}
    for span in judged.spans:
        prefix, rest = _routed(span.record.entry.name)
        if prefix in shares and rest:
            shares[prefix].append((tuple(part.encode() for part in rest.split("/")), span))
    return shares


def _routed(name: str) -> tuple[str | None, str]:
    """(prefix of the part, name within it); the part is None for what is nobody's."""
    if name == RESERVED or name.startswith(f"{RESERVED}/"):
        inside = name.startswith(f"{TRANSCRIPT_PREFIX}/")
        return (TRANSCRIPT_PREFIX, name.removeprefix(f"{TRANSCRIPT_PREFIX}/")) if inside else (None, name)
    return "", name


@contextmanager
def _staged(routes: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """A fresh sibling for each target, which takes its name at the end, or is removed."""
    places: dict[str, Path] = {}
    try:
        for prefix, target in routes.items():
            _check_free(target)
            beside = tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".unpacking")
            places[prefix] = Path(beside)
        yield places
        _take_names([(places[prefix], target) for prefix, target in routes.items()])
    except BaseException:
        for place in places.values():
            remove_tree(place)
        raise


def _check_free(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        raise FileExistsError(errno.ENOTEMPTY, "The directory to restore into is not empty", str(target))


def _take_names(moves: list[tuple[Path, Path]]) -> None:
    """All or none: those already renamed go back when a later one fails."""
    done: list[tuple[Path, Path]] = []
    try:
        for place, target in moves:
            place.rename(target)
            done.append((place, target))
    except OSError:
        for place, target in done:
            target.rename(place)
        raise


class _Restore:
    """Writes one part below one fresh directory, always from an open directory and never through a link."""

    def __init__(
        self, root: Path, archive: ArchiveFile, profile: Profile, *, fresh: bool, owner: Owner | None
    ) -> None:
        self._archive = archive
        self._profile = profile
        self._fresh = fresh
        self._owner = owner
        self._open: list[tuple[bytes, int]] = [(b"", os.open(root, OPEN_DIRECTORY))]

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def run(self, share: Share, targets: Mapping[str, bytes]) -> None:
        """Links come after all files and before the modes of directories, which may forbid writing.

        The root changes hands last: until then a new owner cannot reach in and move things about.
        """
        by_kind: dict[Kind, Share] = {kind: [] for kind in Kind}
        for path, span in share:
            by_kind[span.record.entry.kind].append((path, span))
        made = {path[:depth] for path, _ in share for depth in range(1, len(path))}
        made.update(path for path, _ in by_kind[Kind.DIRECTORY])
        for path in sorted(made):
            with _refusing_clashes():
                os.mkdir(path[-1], 0o700, dir_fd=self._directory(path[:-1]))
            self._give_away(self._directory(path))
        for path, span in by_kind[Kind.FILE]:
            self._write_file(path, span)
        for path, span in by_kind[Kind.SYMLINK]:
            self._write_link(path, span.record.entry, targets[span.record.entry.name])
        for path, span in sorted(by_kind[Kind.DIRECTORY], key=lambda item: len(item[0]), reverse=True):
            self._finish(self._directory(path), span.record.entry)
        self._give_away(self._directory(()))

    def _directory(self, path: tuple[bytes, ...]) -> int:
        """An open descriptor of a directory below the root; those on its way are kept for the next call."""
        shared = 0
        while shared < min(len(path), len(self._open) - 1) and self._open[shared + 1][0] == path[shared]:
            shared += 1
        while len(self._open) > shared + 1:
            os.close(self._open.pop()[1])
        for part in path[shared:]:
            self._open.append((part, os.open(part, OPEN_DIRECTORY, dir_fd=self._open[-1][1])))
        return self._open[-1][1]

    def _write_file(self, path: tuple[bytes, ...], span: Span) -> None:
        with _refusing_clashes():
            fd = os.open(path[-1], _CREATE, 0o600, dir_fd=self._directory(path[:-1]))
        with os.fdopen(fd, "wb", buffering=0) as file:
            for piece in content(self._archive, span):
                _write_all(file.fileno(), piece)
            self._give_away(file.fileno())
            self._finish(file.fileno(), span.record.entry)

    def _write_link(self, path: tuple[bytes, ...], entry: Entry, target: bytes) -> None:
        directory = self._directory(path[:-1])
        with _refusing_clashes():
            os.symlink(target, path[-1], dir_fd=directory)
        if self._owner is not None:
            os.chown(path[-1], *self._owner, dir_fd=directory, follow_symlinks=False)
        if not self._fresh:
            times = (entry.mtime_ns, entry.mtime_ns)
            os.utime(path[-1], ns=times, dir_fd=directory, follow_symlinks=False)

    def _give_away(self, fd: int) -> None:
        """Before the mode is set: a change of owner may clear bits of it."""
        if self._owner is not None:
            os.fchown(fd, *self._owner)

    def _finish(self, fd: int, entry: Entry) -> None:
        os.fchmod(fd, _restored_mode(entry, self._profile))
        if not self._fresh:
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def _restored_mode(entry: Entry, profile: Profile) -> int:
    """Ours as it was; a stranger's becomes plain. Never set-user-id or set-group-id."""
    if not profile.stranger:
        return entry.mode & 0o1777
    return 0o755 if entry.kind is Kind.DIRECTORY or entry.mode & 0o100 else 0o644


def _write_all(fd: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]


@contextmanager
def _refusing_clashes() -> Iterator[None]:
    """A file system may take two names for one, or refuse one that others take."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_HOLD:
            raise
        message = "The file system here cannot hold the names of this archive. Nothing was written."
        raise ArchiveRefused(Refusal.CLASHING_NAMES, message) from error
