"""Restores an archive: judged first, written aside, then moved into place in one step."""

import errno
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from overnight.archive.helper import FEW, start_helper
from overnight.archive.judge import Judged, judge_all
from overnight.archive.model import (
    OWN,
    RESERVED,
    SESSION_ENTRY,
    TRANSCRIPT_PREFIX,
    ArchiveRefused,
    Kind,
    Profile,
    Refusal,
    Unpacked,
)
from overnight.archive.owners import Owner
from overnight.archive.reader import ArchiveFile, open_archive, read_directory
from overnight.archive.record import Record, directory_sha256, sections_of
from overnight.archive.restore import Restore
from overnight.archive.spans import Span, content
from overnight.archive.trees import remove_tree
from overnight.archive.writing import Manner


def unpack(
    path: Path,
    routes: Mapping[str, Path],
    *,
    profile: Profile = OWN,
    owner: Owner | None = None,
    record: Path | None = None,
    sha256: str | None = None,
) -> Unpacked:
    """Writes each part of the archive to the directory its prefix is routed to.

    "" is the workspace; parts without a route and unknown entries below `.overnight/` are skipped. Every
    target is a new directory of mode 0700 afterwards (an empty one may stand there before), beside which
    the work is done. Transcripts get fresh mtimes: Claude Code deletes old ones (facts: claude-code 4).
    With an `owner` all that is written is theirs, the targets too; that needs the right to give files away.
    With a `record` the next pack can tell what changed since: it takes the `sha256` of an archive of ours,
    which the caller has checked.
    Raises ArchiveRefused for bad input, OSError for trouble of our own; nothing is left in both cases, an
    older record included. Nothing is fsynced: after a power cut a workspace is made again from its archive.
    """
    if record is not None and (sha256 is None or profile.stranger):
        raise ValueError("a record takes an archive of ours and its checksum")
    if record is not None:
        record.unlink(missing_ok=True)
    statuses: dict[bytes, bytes] = {}
    with open_archive(path) as archive, ExitStack() as resources:
        directory = read_directory(archive, profile.caps, stranger=profile.stranger)
        helper = resources.enter_context(start_helper()) if len(directory.records) > FEW else None
        judged = judge_all(archive, directory, profile)
        session = _session(archive, judged, profile)
        shares = _shares(judged, routes)
        most = max(shares, key=lambda prefix: len(shares[prefix]), default=None)
        with (
            _staged(routes, record) as places,
            resources.pop_all(),
        ):  # what writes has ended before it removes
            for prefix, share in shares.items():
                manner = Manner(
                    plain_modes=profile.stranger,
                    fresh_times=prefix == TRANSCRIPT_PREFIX,
                    owner=owner,
                    statuses=None if record is None else statuses,
                )
                helped = helper if prefix == most else None
                Restore(places[prefix], archive, manner, prefix, helped).run(share, judged.targets)
            if record is not None and sha256 is not None:
                listed = directory_sha256(archive, judged.directory_start)
                Record(archive.size, sha256, listed, sections_of(statuses)).save(record)
        kept = [span.record.size for share in shares.values() for span in share]
        return Unpacked(len(kept), sum(kept), session)


def _session(archive: ArchiveFile, judged: Judged, profile: Profile) -> bytes | None:
    for span in judged.spans:
        record = span.record
        if record.name == SESSION_ENTRY and record.kind is Kind.FILE:
            if record.size > profile.caps.session_bytes:
                message = (
                    f"{SESSION_ENTRY} has more than {profile.caps.session_bytes} bytes. Nothing was written."
                )
                raise ArchiveRefused(Refusal.TOO_LARGE, message)
            return b"".join(content(archive, span))
    return None


def _shares(judged: Judged, routes: Mapping[str, Path]) -> dict[str, list[Span]]:
    """What goes to each target, in the order of the archive."""
    shares: dict[str, list[Span]] = {prefix: [] for prefix in routes}
    for span in judged.spans:
        prefix = _prefix_of(span.record.name)
        if prefix in shares:
            shares[prefix].append(span)
    return shares


def _prefix_of(name: str) -> str | None:
    """Of the part that an entry lies below; None for what is nobody's."""
    if name != RESERVED and not name.startswith(f"{RESERVED}/"):
        return ""
    return TRANSCRIPT_PREFIX if name.startswith(f"{TRANSCRIPT_PREFIX}/") else None


@contextmanager
def _staged(routes: Mapping[str, Path], record: Path | None) -> Iterator[dict[str, Path]]:
    """A fresh sibling for each target, which takes its name at the end, or is removed, and the record with it."""
    places: dict[str, Path] = {}
    try:
        for prefix, target in routes.items():
            _check_free(target)
            beside = tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".unpacking")
            places[prefix] = Path(beside)
        yield places
        _take_names([(places[prefix], target) for prefix, target in routes.items()])
    except BaseException:  # an interrupt too: nothing half-restored is left
        for place in places.values():
            remove_tree(place)
        if record is not None:
            record.unlink(missing_ok=True)
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
